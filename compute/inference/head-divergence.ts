// How far predictions move: from the residual stream behind the last layer to the KL divergence from predictions before.
import { relative } from 'node:path'
import type { BuildableModel } from '../architectures/registry.js'
import { ensureFloat32 } from '../formats/float-weights.js'
import type { ExternalData, Graph, GraphNode, Value } from '../graph/ir.js'
import { partOf } from '../graph/part.js'
import { createSession, floats, int32s, int64s } from '../runtime/session.js'
import type { RunnerContext } from './layer-runner.js'
import { buildModelGraph } from './model-graph.js'

/** Rows of logits at once: 64 MB of them. */
const logitsAtOnce = 16 * 1024 * 1024

/** The head's graph with the sum over rows of KL(reference || own) as its output. */
function divergenceGraph(model: BuildableModel, locate: (role: string) => ExternalData): Graph {
  const graph = buildModelGraph(model, 'losses', locate)
  const logits = graph.nodes.flatMap(node => node.outputs).find(value => value?.name === 'logits')!
  const like = (name: string): Value => ({ name, type: 'float32', shape: logits.shape })
  const reference = like('reference')
  const [own, log, ratio, probability, weighted] = ['own_log', 'log', 'ratio', 'probability', 'weighted'].map(like)
  const sum: Value = { name: 'divergence', type: 'float32', shape: [] }
  const node = (op: string, inputs: Value[], output: Value, attributes: GraphNode['attributes'] = {}): GraphNode => ({
    op,
    inputs,
    outputs: [output],
    attributes,
  })
  const nodes = [
    ...graph.nodes,
    node('LogSoftmax', [logits], own!, { axis: -1 }),
    node('LogSoftmax', [reference], log!, { axis: -1 }),
    node('Sub', [log!, own!], ratio!),
    node('Exp', [log!], probability!),
    node('Mul', [probability!, ratio!], weighted!),
    node('ReduceSum', [weighted!], sum, { keepdims: 0 }),
  ]
  const all = partOf({ ...graph, nodes, inputs: [...graph.inputs, reference] }, [logits, sum])
  return all
}

/** Compares the ends of models that share norm and head with the model's own. */
export async function openDivergence(model: BuildableModel, context: RunnerContext) {
  const files = new Map<string, ExternalData>()
  const unset: ExternalData = { location: '', offset: 0, length: 0 }
  for (const { name } of divergenceGraph(model, () => unset).constants) {
    const tensor = model.tensors.get(name)
    if (!tensor) continue
    const path = await ensureFloat32(context, tensor)
    const length = tensor.shape.reduce((product, size) => product * size, 4)
    files.set(name, { location: relative(context.dataFolder, path), offset: 0, length })
  }
  const graph = divergenceGraph(model, role => files.get(role) ?? unset)
  const session = await createSession(graph, {
    weightsFolder: context.dataFolder,
    threads: context.env.HARTONOMOUS_THREADS,
    arena: false,
  })
  const { hiddenSize, vocabularySize } = model.dimensions
  const step = Math.max(1, Math.floor(logitsAtOnce / vocabularySize))
  const feedsOf = (hidden: Float32Array, from: number, to: number) => {
    const given: Record<string, ReturnType<typeof floats>> = {
      hidden_in: floats(hidden, [hidden.length / hiddenSize, hiddenSize]),
      rows: int64s(Array.from({ length: to - from }, (_, i) => from + i)),
      input_ids: int64s([0], [1, 1]),
      last_positions: int32s([0]),
      total_length: int32s([1], []),
    }
    return Object.fromEntries(graph.inputs.flatMap(({ name }) => (given[name] ? [[name, given[name]]] : [])))
  }
  const eachPart = async (rows: number, work: (from: number, to: number) => Promise<void>) => {
    for (let from = 0; from < rows; from += step) await work(from, Math.min(rows, from + step))
  }
  const { signal } = context
  return {
    /** Logits [rows, vocabulary] of all rows of a residual stream. */
    async logits(hidden: Float32Array): Promise<Float32Array> {
      const rows = hidden.length / hiddenSize
      const all = new Float32Array(rows * vocabularySize)
      await eachPart(rows, async (from, to) => {
        const reference = floats(new Float32Array((to - from) * vocabularySize), [to - from, vocabularySize])
        const found = await session.run({ ...feedsOf(hidden, from, to), reference }, ['logits'], { signal })
        all.set(found.logits!.data as Float32Array, from * vocabularySize)
      })
      return all
    },
    /** Mean over rows of KL(reference || what this residual stream predicts), nats. */
    async divergence(reference: Float32Array, hidden: Float32Array): Promise<number> {
      const rows = hidden.length / hiddenSize
      let sum = 0
      await eachPart(rows, async (from, to) => {
        const part = reference.subarray(from * vocabularySize, to * vocabularySize)
        const feeds = { ...feedsOf(hidden, from, to), reference: floats(part, [to - from, vocabularySize]) }
        const found = await session.run(feeds, ['divergence'], { signal })
        sum += (found.divergence!.data as Float32Array)[0]!
      })
      // Rounding may leave equal predictions a hair below 0.
      return Math.max(0, sum / rows)
    },
    dispose: () => session.dispose(),
  }
}
