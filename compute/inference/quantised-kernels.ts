// Rewrites a float32 graph to multiply by weights as they are stored in quantised blocks: MatMulNBits for Gemm, GatherBlockQuantized for Gather.
import { relative } from 'node:path'
import type { Fusion } from '../../lib/fusion.js'
import type { BuildableModel } from '../architectures/registry.js'
import { type DerivedContext, derivedBytes, type StoredTensor } from '../formats/float-weights.js'
import {
  ensureQuantised,
  matrixForm,
  type QuantisedMatrix,
  quantisedBytes,
  type Section,
} from '../formats/quantised-weights.js'
import { type GraphBuilder, graphBuilder } from '../graph/builder.js'
import type { Constant, Graph, GraphNode, Value } from '../graph/ir.js'
import { apply, applyAll, reshape } from '../ops/apply.js'
import { type Join, joinOf, joinsOf, quantisedFusions } from './fuse-graph.js'
import { packHeads } from './pack-heads.js'

/** Activations rounded to 8 bits per block: twice as fast as exact ones at 4 bits, and the only form with a kernel worth using at 8. */
const accuracyLevel = 4

/** Linear layers that read one value and whose weights have one form: computed together. */
interface Group {
  nodes: readonly GraphNode[]
  tensors: readonly [StoredTensor, ...StoredTensor[]]
}

/**
 * The same graph on quantised kernels wherever a weight's stored form allows: linear layers of one input (q, k and v; gate and up) become one
 * multiplication, a table of embeddings that is also the head is read from the head's codes. Weights are what they were; products differ by
 * the rounding of activations to 8 bits (a few thousandths of the greatest one).
 * @throws what `ensureQuantised` throws
 */
export function useQuantisedKernels(
  graph: Graph,
  model: Pick<BuildableModel, 'tensors'>,
  context: DerivedContext,
  fusions: readonly Fusion[] = quantisedFusions,
): Promise<Graph> {
  const matrixOf: MatrixOf = async tensors => {
    const matrix = await ensureQuantised(context, tensors)
    return { ...matrix, path: relative(context.dataFolder, matrix.path) }
  }
  return onQuantisedKernels(graph, model, matrixOf, fusions)
}

/** Where the rows of these tensors lie as one matrix; `path` as the graph names the file. */
export type MatrixOf = (tensors: readonly [StoredTensor, ...StoredTensor[]]) => Promise<QuantisedMatrix>

/** The same for matrices from anywhere. */
export async function onQuantisedKernels(
  graph: Graph,
  { tensors }: Pick<BuildableModel, 'tensors'>,
  matrixOf: MatrixOf,
  fusions: readonly Fusion[],
): Promise<Graph> {
  const groups = linearGroups(graph, tensors, joinsOf(fusions))
  const matrices = new Map<Group, QuantisedMatrix>()
  for (const group of groups.values()) {
    if (!matrices.has(group)) matrices.set(group, await matrixOf(group.tensors))
  }
  const heads = new Map([...matrices].map(([group, matrix]) => [weightOf(group.nodes[0]!).name, matrix]))

  const g = graphBuilder(`${graph.name}, quantised kernels`)
  const constants: Constant[] = []
  const constant = (
    name: string,
    shape: readonly number[],
    type: 'uint8' | 'float32',
    matrix: QuantisedMatrix,
    s: Section,
  ) => {
    const value: Constant = { name, type, shape, data: { location: matrix.path, ...s } }
    if (!constants.some(known => known.name === name)) constants.push(value)
    return value
  }
  for (const node of graph.nodes) {
    const group = groups.get(node)
    const table = node.op === 'Gather' ? heads.get(node.inputs[0]!.name) : undefined
    if (group) {
      if (node === group.nodes[0]) multiply(g, group, matrices.get(group)!, constant)
    } else if (table && !table.form.offsets) lookUp(g, node, table, constant)
    else copyNode(g, node)
  }
  const { nodes, constants: own } = g.build()
  const used = new Set(nodes.flatMap(node => node.inputs.map(input => input?.name)))
  const kept = graph.constants.filter(known => used.has(known.name) && !own.some(other => other.name === known.name))
  const rewritten = {
    ...graph,
    name: `${graph.name}, quantised kernels`,
    nodes,
    constants: [...kept, ...own, ...constants],
  }
  return fusions.includes('NORM_ATTENTION') ? packHeads(rewritten) : rewritten
}

/**
 * Whether a model can decode on quantised kernels: some matrix is stored in a form that they take, and the cache of derived files has room for
 * these forms beside the float32 ones.
 */
export function takesQuantisedKernels(
  { tensors }: Pick<BuildableModel, 'tensors'>,
  env: DerivedContext['env'],
): boolean {
  const bytes = [...tensors.values()].reduce((sum, tensor) => sum + quantisedBytes(tensor), 0)
  return bytes > 0 && bytes + derivedBytes(tensors.values()) <= env.HARTONOMOUS_DERIVED_BYTES
}

/**
 * Whether prompts too are faster on stored codes than in float32. Measured at 8 bits, blocks of 32 and no offsets (Q8_0): a quarter faster.
 * At 4 bits, where each block has an offset, float32 is as fast, and exact.
 */
export function readsPromptsOnCodes({ tensors }: Pick<BuildableModel, 'tensors'>): boolean {
  const matrices = [...tensors].filter(([role, { shape }]) => role.startsWith('layers.') && shape.length === 2)
  return matrices.every(([, tensor]) => {
    const form = matrixForm(tensor)
    return form?.bits === 8 && form.blockSize >= 32 && !form.offsets
  })
}

type AddConstant = (
  name: string,
  shape: readonly number[],
  type: 'uint8' | 'float32',
  matrix: QuantisedMatrix,
  section: Section,
) => Value

const weightOf = (node: GraphNode): Value => node.inputs[1]!

/** Each linear layer that has a quantised form, with those it is computed together with. */
function linearGroups(
  graph: Graph,
  tensors: BuildableModel['tensors'],
  joined: ReadonlySet<Join>,
): Map<GraphNode, Group> {
  const byInput = new Map<string, { node: GraphNode; tensor: StoredTensor }[]>()
  for (const node of graph.nodes) {
    const { alpha = 1, transA = 0, transB = 0 } = node.attributes
    if (node.op !== 'Gemm' || alpha !== 1 || transA !== 0 || transB !== 1) continue
    const tensor = tensors.get(weightOf(node).name)
    const form = tensor && matrixForm(tensor)
    if (!form) continue
    const join = joinOf(weightOf(node).name)
    const alone = join && !joined.has(join) ? weightOf(node).name : ''
    const key = [node.inputs[0]!.name, alone, form.bits, form.blockSize, form.offsets, tensor.dtype].join()
    byInput.set(key, [...(byInput.get(key) ?? []), { node, tensor }])
  }
  const groups = new Map<GraphNode, Group>()
  for (const members of byInput.values()) {
    const [first, ...others] = members.map(({ tensor }) => tensor)
    const group: Group = { nodes: members.map(({ node }) => node), tensors: [first!, ...others] }
    for (const { node } of members) groups.set(node, group)
  }
  return groups
}

/** The outputs of all the group's nodes, under the names they had. */
function multiply(g: GraphBuilder, { nodes }: Group, matrix: QuantisedMatrix, constant: AddConstant): void {
  const { form, rows, columns } = matrix
  const blocks = columns / form.blockSize
  const x = nodes[0]!.inputs[0]!
  const name = nodes.map(node => weightOf(node).name).join('+')
  const codes = constant(
    `${name}.codes`,
    [rows, blocks, (form.blockSize * form.bits) / 8],
    'uint8',
    matrix,
    matrix.codes,
  )
  const scales = constant(`${name}.scales`, [rows, blocks], 'float32', matrix, matrix.scales)
  const attributes = { K: columns, N: rows, bits: form.bits, block_size: form.blockSize, accuracy_level: accuracyLevel }
  const single = nodes.length === 1 ? nodes[0]! : null
  /** What the last node of one layer is called; more layers are split after it. */
  const last = (bias: boolean) => (single && !bias ? single.outputs[0]!.name : `${name}.product`)
  const biased = nodes.some(node => node.inputs[2])

  let product = apply(g, 'MatMulNBits', [x, codes, scales], attributes, {
    name: form.offsets ? `${name}.scaled` : last(biased),
  })
  if (form.offsets) {
    // x times (scale * (code - zero) + offset) = x times (scale * (code - zero)), plus the sum of each block of x times its offset.
    const offsets = constant(`${name}.offsets`, [rows, blocks], 'float32', matrix, matrix.offsets)
    const inBlocks = reshape(g, x, [-1, blocks, form.blockSize], ['tokens', blocks, form.blockSize], `${name}.blocks`)
    const sums = apply(g, 'ReduceSum', [inBlocks, g.int64s([-1])], { keepdims: 0 }, { name: `${name}.sums` })
    product = apply(g, 'Gemm', [sums, offsets, product], { transB: 1 }, { name: last(biased) })
  }
  const sizes = nodes.map(node => weightOf(node).shape[0] as number)
  const named = nodes.map(node => `${node.outputs[0]!.name}${node.inputs[2] ? '.unbiased' : ''}`)
  const parts = single ? [product] : applyAll(g, 'Split', [product, g.int64s(sizes)], { axis: 1 }, { name: named })
  nodes.forEach((node, i) => {
    const bias = node.inputs[2]
    if (bias) apply(g, 'Add', [parts[i]!, bias], {}, { name: node.outputs[0]!.name })
  })
}

/** Rows of the embedding table from the codes of the head. */
function lookUp(g: GraphBuilder, node: GraphNode, matrix: QuantisedMatrix, constant: AddConstant): void {
  const { form, rows, columns } = matrix
  const [table, ids] = node.inputs
  const codes = constant(`${table!.name}.table`, [rows, (columns * form.bits) / 8], 'uint8', matrix, matrix.codes)
  const scales = constant(`${table!.name}.scales`, [rows, columns / form.blockSize], 'float32', matrix, matrix.scales)
  const attributes = { bits: form.bits, block_size: form.blockSize, gather_axis: 0, quantize_axis: 1 }
  apply(g, 'GatherBlockQuantized', [codes, ids!, scales], attributes, { name: node.outputs[0]!.name })
}

function copyNode(g: GraphBuilder, { op, inputs, outputs, attributes }: GraphNode): void {
  g.node({ op, inputs, attributes, outputs, name: outputs.map(output => output?.name ?? op) })
}
