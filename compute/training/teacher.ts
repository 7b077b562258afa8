// What a teacher says of token sequences: its most likely next tokens with the exact mass of the others, states and attention of its layers.
import { relative } from 'node:path'
import type { Manifest } from '../../lib/manifest.js'
import { type BuildableModel, checkBuildable } from '../architectures/registry.js'
import { causalMask, rewritten } from '../autodiff/differentiable.js'
import {
  checkDerivedFits,
  ensureFloat32,
  keepFiles,
  readTensorFloat32,
  releaseFiles,
} from '../formats/float-weights.js'
import type { GraphBuilder } from '../graph/builder.js'
import type { ExternalData, Graph, Value } from '../graph/ir.js'
import { type LocateWeight, positionInputs } from '../inference/graph-inputs.js'
import { buildModelGraph } from '../inference/model-graph.js'
import { ropeTables } from '../inference/rope.js'
import { apply, applyAll } from '../ops/apply.js'
import { throwIfCancelled } from '../runtime/cancellation.js'
import { createSession, floats, int64s, type RuntimeTensor } from '../runtime/session.js'
import type { TeacherRow } from './batch-feeds.js'
import type { TrainingContext } from './training-model.js'

export interface TeacherOptions {
  /** How many tokens are named per position; at most the vocabulary. */
  tokens: number
  /** Only ids below this are named: the student has no others; absent: all. */
  vocabulary?: number | undefined
  temperature: number
  /** States of the residual stream after so many layers. */
  hidden?: readonly number[] | undefined
  /** Layers whose attention probabilities are given. */
  attention?: readonly number[] | undefined
}

export interface Teacher {
  readonly model: BuildableModel
  /** One row of at most the model's context. */
  say(ids: readonly number[]): Promise<TeacherRow>
  dispose(): Promise<void>
}

/** Logits of one chunk of positions, as numbers: 16 M are 64 MB. */
const chunkLogits = 16 * 1024 * 1024

function teacherGraph(model: BuildableModel, locate: LocateWeight, options: TeacherOptions): Graph {
  const { tokens, vocabulary, temperature, hidden = [], attention = [] } = options
  const head = model.dimensions.tiedEmbeddings ? 'embed' : 'lm_head'
  const wanted = ['final_norm.out', ...hidden.map(layer => `hidden.${layer}`)]
  const { g, values } = rewritten(buildModelGraph(model, 'states', locate), wanted, { headGates: false })
  const rows = g.input('rows', 'int64', ['rows'])
  const normed = values.get('final_norm.out')!
  const x = apply(g, 'Gather', [normed, rows], { axis: 0 }, { name: 'wanted' })
  const weight = values.get(head) ?? g.weight(head, model.tensors.get(head)!.shape, locate(head))
  const logits = apply(g, 'Gemm', [x, weight], { transB: 1, alpha: 1 / temperature }, { name: 'logits' })
  const p = apply(g, 'Softmax', [logits], { axis: -1 }, { name: 'all_probabilities' })
  const [probabilities, ids] = applyAll(
    g,
    'TopK',
    [vocabulary === undefined ? p : firstColumns(g, p, vocabulary), g.int64s([tokens])],
    { axis: -1, largest: 1, sorted: 1 },
    { name: ['probabilities', 'ids'] },
  )
  g.output(probabilities!)
  g.output(ids!)
  for (const layer of new Set(hidden)) g.output(values.get(`hidden.${layer}`)!)
  for (const layer of new Set(attention)) {
    const name = `layers.${layer}.attention.weights`
    g.output(g.nodes.flatMap(n => n.outputs).find(o => o?.name === name)!)
  }
  return g.build()
}

const firstColumns = (g: GraphBuilder, x: Value, count: number): Value =>
  applyAll(g, 'Split', [x, g.int64s([count, (x.shape[1] as number) - count])], { axis: 1 })[0]!

/** @throws what opening a model throws */
export async function openTeacher(
  manifest: Manifest,
  context: TrainingContext,
  options: TeacherOptions,
): Promise<Teacher> {
  const model = checkBuildable(manifest)
  const { dimensions: d, tensors } = model
  checkDerivedFits(tensors.values(), context.env, manifest.sourceName ?? `A ${manifest.architecture} model`)
  const kept = keepFiles()
  const files = new Map<string, ExternalData>()
  for (const [role, tensor] of tensors) {
    throwIfCancelled(context.signal)
    const path = await ensureFloat32({ ...context, kept }, tensor)
    const length = tensor.shape.reduce((product, size) => product * size, 4)
    files.set(role, { location: relative(context.dataFolder, path), offset: 0, length })
  }
  const factors = tensors.get('rope_factors')
  const ropeFactors = factors && (await readTensorFloat32(context.payloads, factors))
  const k = Math.min(options.tokens, options.vocabulary ?? d.vocabularySize)
  const graph = teacherGraph(model, role => files.get(role)!, { ...options, tokens: k })
  const session = await createSession(graph, {
    weightsFolder: context.dataFolder,
    threads: context.env.HARTONOMOUS_THREADS,
  })
  const asked = positionInputs(model)
  const states = [...(options.hidden ?? [])].map(layer => `hidden.${layer}`)
  const maps = [...(options.attention ?? [])].map(layer => `layers.${layer}.attention.weights`)
  const inChunk = Math.max(1, Math.floor(chunkLogits / d.vocabularySize))

  return {
    model,
    async say(ids) {
      const seq = ids.length
      const rope = asked.tables ? ropeTables(d, seq, ropeFactors) : undefined
      const common: Record<string, RuntimeTensor> = {
        input_ids: int64s(ids, [1, seq]),
        causal_mask: floats(causalMask(seq, d.slidingWindow), [seq, seq]),
        ...(rope
          ? {
              rope_cos: floats(rope.cos, [seq, d.headSize / 2]),
              rope_sin: floats(rope.sin, [seq, d.headSize / 2]),
            }
          : undefined),
        ...(asked.ids
          ? {
              position_ids: int64s(
                ids.map((_, i) => i),
                [1, seq],
              ),
            }
          : undefined),
      }
      const row: TeacherRow = {
        ids: new Int32Array(seq * k),
        probabilities: new Float32Array(seq * k),
        tail: new Float32Array(seq),
        entropy: new Float32Array(seq),
      }
      let hidden: Float32Array[] = []
      let attention: Float32Array[] = []
      for (let from = 0; from < seq; from += inChunk) {
        const rows = Array.from({ length: Math.min(inChunk, seq - from) }, (_, i) => from + i)
        // States and attention are those of all positions whichever rows are asked for.
        const further = from === 0 ? [...new Set([...states, ...maps])] : []
        const found = await session.run({ ...common, rows: int64s(rows) }, ['probabilities', 'ids', ...further], {
          signal: context.signal,
        })
        row.probabilities.set(found.probabilities!.data as Float32Array, from * k)
        row.ids.set(Int32Array.from(found.ids!.data as BigInt64Array, Number), from * k)
        if (from === 0) {
          hidden = states.map(name => (found[name]!.data as Float32Array).slice())
          attention = maps.map(name => (found[name]!.data as Float32Array).slice())
        }
      }
      for (let at = 0; at < seq; at++) {
        let [mass, entropy] = [0, 0]
        for (let i = at * k; i < (at + 1) * k; i++) {
          const q = row.probabilities[i]!
          mass += q
          if (q > 0) entropy += q * Math.log(q)
        }
        const tail = k === d.vocabularySize ? 0 : Math.max(0, 1 - mass)
        row.tail[at] = tail
        row.entropy[at] = entropy + (tail > 0 ? tail * Math.log(tail) : 0)
      }
      return {
        ...row,
        ...(states.length > 0 ? { hidden } : {}),
        ...(maps.length > 0 ? { attention } : {}),
      }
    },
    async dispose() {
      await session.dispose()
      releaseFiles(kept)
    },
  }
}
