// A model run layer by layer over calibration texts, giving for each linear layer the Gram matrix XᵀX of its inputs. The weights are the
// caller's at each step, so that later layers see what earlier ones have become.
import { relative } from 'node:path'
import type { BuildableModel } from '../architectures/registry.js'
import { ensureFloat32, readTensorFloat32 } from '../formats/float-weights.js'
import type { ExternalData, Graph, Value } from '../graph/ir.js'
import { partOf } from '../graph/part.js'
import { createSession, floats, int32s, int64s, type RuntimeTensor } from '../runtime/session.js'
import { positionInputs } from './graph-inputs.js'
import type { ModelContext } from './model.js'
import { buildModelGraph, type GraphVariant } from './model-graph.js'
import { ropeTables } from './rope.js'

/** [tokens, hidden] of all sequences, one after the other. */
export type CalibrationState = Float32Array

export interface Calibration {
  tokens: number
  embed(model: BuildableModel): Promise<CalibrationState>
  layer(model: BuildableModel, index: number, state: CalibrationState): Promise<CalibrationState>
  /** By role (`layers.3.q`) of the layer's linear weights: [in, in]; roles of one input share one matrix. */
  layerGrams(model: BuildableModel, index: number, state: CalibrationState): Promise<Map<string, Float32Array>>
  /** The same for the head (`lm_head`, or `embed` where it is tied), given the last layer's output. */
  headGram(model: BuildableModel, state: CalibrationState): Promise<Map<string, Float32Array>>
}

/** Tokens run at once: activations of a few hundred bytes times the hidden size each. */
const tokensPerRun = 2048

/**
 * @param sequences token ids, all of one length, none longer than the context: nothing is padded
 */
export async function openCalibration(
  first: BuildableModel,
  sequences: readonly (readonly number[])[],
  context: ModelContext,
): Promise<Calibration> {
  const seq = sequences[0]?.length ?? 0
  if (seq === 0 || sequences.some(ids => ids.length !== seq)) throw new Error('calibration sequences differ in length')
  const { dimensions: d } = first
  const factors = first.tensors.get('rope_factors')
  const asked = positionInputs(first)
  const tables = ropeTables(d, asked.tables ? seq : 0, factors && (await readTensorFloat32(context.payloads, factors)))
  const perRun = Math.max(1, Math.floor(tokensPerRun / seq))

  const feedsOf = (batch: readonly (readonly number[])[]): Record<string, RuntimeTensor> => {
    const shape = [tables.positions, d.headSize / 2]
    return {
      input_ids: int64s(batch.flat(), [batch.length, seq]),
      last_positions: int32s(new Array<number>(batch.length).fill(seq - 1)),
      total_length: int32s([seq], []),
      ...(asked.tables ? { rope_cos: floats(tables.cos, shape), rope_sin: floats(tables.sin, shape) } : {}),
      ...(asked.ids
        ? {
            position_ids: int64s(
              Array.from({ length: batch.length * seq }, (_, i) => i % seq),
              [batch.length, seq],
            ),
          }
        : {}),
      rows: int64s(Array.from({ length: batch.length * seq }, (_, i) => i)),
    }
  }

  /** Runs a part of the model over all sequences; `take` gets the results of each run. */
  async function run(
    model: BuildableModel,
    variant: GraphVariant,
    state: CalibrationState | undefined,
    change: (graph: Graph) => Graph,
    take: (results: Record<string, RuntimeTensor>, run: number) => void,
  ) {
    const used = new Set<string>()
    const unset: ExternalData = { location: '', offset: 0, length: 0 }
    for (const { name } of change(buildModelGraph(model, variant, () => unset)).constants) used.add(name)
    const files = new Map<string, ExternalData>()
    for (const [role, tensor] of model.tensors) {
      if (!used.has(role)) continue
      const path = await ensureFloat32(context, tensor)
      const length = tensor.shape.reduce((product, size) => product * size, 4)
      files.set(role, { location: relative(context.dataFolder, path), offset: 0, length })
    }
    const graph = change(buildModelGraph(model, variant, role => files.get(role) ?? unset))
    const session = await createSession(graph, {
      weightsFolder: context.dataFolder,
      threads: context.env.HARTONOMOUS_THREADS,
      backend: context.backend,
      arena: false,
    })
    try {
      for (let start = 0; start < sequences.length; start += perRun) {
        const batch = sequences.slice(start, start + perRun)
        const feeds = feedsOf(batch)
        if (state) {
          const part = state.subarray(start * seq * d.hiddenSize, (start + batch.length) * seq * d.hiddenSize)
          feeds.hidden_in = floats(part, [batch.length * seq, d.hiddenSize])
        }
        const wanted = Object.fromEntries(graph.inputs.map(({ name }) => [name, feeds[name]!]))
        const outputs = graph.outputs.map(({ name }) => name)
        take(await session.run(wanted, outputs, { signal: context.signal }), start)
      }
    } finally {
      await session.dispose()
    }
  }

  async function hidden(model: BuildableModel, variant: GraphVariant, state?: CalibrationState) {
    const all = new Float32Array(sequences.length * seq * d.hiddenSize)
    const only = (graph: Graph) => partOf(graph, graph.outputs)
    await run(model, variant, state, only, ({ hidden_out }, start) =>
      all.set(hidden_out!.data as Float32Array, start * seq * d.hiddenSize),
    )
    return all
  }

  async function grams(model: BuildableModel, variant: GraphVariant, state: CalibrationState) {
    const roles = new Map<string, string[]>()
    const sums = new Map<string, Float32Array>()
    const change = (graph: Graph) => {
      const [changed, found] = withGrams(graph, model)
      for (const [output, own] of found) roles.set(output, own)
      return changed
    }
    await run(model, variant, state, change, results => {
      for (const [name, { data }] of Object.entries(results)) {
        const known = sums.get(name)
        if (!known) sums.set(name, (data as Float32Array).slice())
        else for (let i = 0; i < known.length; i++) known[i]! += (data as Float32Array)[i]!
      }
    })
    return new Map([...sums].flatMap(([name, sum]) => roles.get(name)!.map(role => [role, sum] as const)))
  }

  return {
    tokens: sequences.length * seq,
    embed: model => hidden(model, 'embed'),
    layer: (model, index, state) => hidden(model, `layer.${index}`, state),
    layerGrams: (model, index, state) => grams(model, `layer.${index}`, state),
    headGram: (model, state) => grams(model, 'losses', state),
  }
}

/** The graph with XᵀX of every linear layer's input as outputs, and nothing else; which roles each output is of. */
function withGrams(graph: Graph, { tensors }: BuildableModel): [Graph, Map<string, string[]>] {
  const roles = new Map<string, string[]>()
  const outputs: Value[] = []
  const nodes = [...graph.nodes]
  for (const { op, inputs, attributes } of graph.nodes) {
    const [x, weight] = inputs
    if (op !== 'Gemm' || attributes.transB !== 1 || !x || !weight || !tensors.has(weight.name)) continue
    const name = `gram.${x.name}`
    const known = roles.get(name)
    if (known) {
      known.push(weight.name)
      continue
    }
    roles.set(name, [weight.name])
    const size = weight.shape[1]!
    const output: Value = { name, type: 'float32', shape: [size, size] }
    nodes.push({ op: 'Gemm', inputs: [x, x], outputs: [output], attributes: { transA: 1 } })
    outputs.push(output)
  }
  return [partOf({ ...graph, nodes }, outputs), roles]
}
