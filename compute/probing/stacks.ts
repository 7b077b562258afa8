// Stacks of layers that share their first layers, scored together: every distinct prefix is computed once.
import { type ActivationSums, activationSums } from './activations.js'
import type { RowScore, ScoreRow } from './scoring.js'

/** Indices of the layers that run, in their order; the others are skipped: their input goes on unchanged. */
export type Stack = readonly number[]

/** A layer that runs whole, or with the query heads of these key/value heads, which ascend, giving 0. */
export type Step = number | { layer: number; withoutGroups: readonly number[] }

/** What is run of a model: a stack, in which layers may lack heads. */
export type Variant = readonly Step[]

/** All layers but the given ones. */
export const stackWithout = (layerCount: number, ...skipped: readonly number[]): Stack =>
  Array.from({ length: layerCount }, (_, layer) => layer).filter(layer => !skipped.includes(layer))

export const layerOf = (step: Step) => (typeof step === 'number' ? step : step.layer)
const groupsOf = (step: Step) => (typeof step === 'number' ? undefined : step.withoutGroups)
/** `5`, or `5/0+2` without the key/value heads 0 and 2. */
export const stepKey = (step: Step) =>
  typeof step === 'number' ? String(step) : `${step.layer}/${step.withoutGroups.join('+')}`

/** Whether no layer lacks heads. */
export const isStack = (variant: Variant): variant is Stack => variant.every(step => typeof step === 'number')

/** A model in pieces; the residual stream of a batch is [rows * longest row, hidden], padded on the right. */
export interface LayerwiseModel {
  hiddenSize: number
  embed(rows: readonly ScoreRow[]): Promise<Float32Array>
  /** @param withoutGroups key/value heads whose query heads give 0; absent: none */
  layer(
    index: number,
    hidden: Float32Array,
    rows: readonly ScoreRow[],
    withoutGroups?: readonly number[] | undefined,
  ): Promise<Float32Array>
  /** The layer's output only where a completion token follows, row by row: less work where nothing else is needed. */
  tail?(index: number, hidden: Float32Array, rows: readonly ScoreRow[]): Promise<Float32Array>
  /** @param scoredOnly whether `hidden` comes from `tail` */
  losses(hidden: Float32Array, rows: readonly ScoreRow[], scoredOnly?: boolean): Promise<RowScore[]>
}

/** Blocks of 1 to this many layers have their angular distance measured. */
export const longestBlock = 8

/** A prefix tree: an edge is a step, a node the state after it. */
export interface StackNode {
  /** By the step that leads there, whole or masked layers apart. */
  children: Map<string, { step: Step; node: StackNode }>
  /** Which of the given stacks end here. */
  ends: number[]
  /** Whether the observed stack passes through. */
  observed: boolean
}

/** Layers of a stack ascend, as a model runs them. */
export function prefixTree(stacks: readonly Variant[], observe?: number): StackNode {
  const newNode = (): StackNode => ({ children: new Map(), ends: [], observed: false })
  const root = newNode()
  stacks.forEach((stack, index) => {
    let node = root
    stack.forEach((step, i) => {
      const before = i > 0 ? layerOf(stack[i - 1]!) : -1
      if (layerOf(step) <= before) throw new Error(`layer ${layerOf(step)} follows layer ${before} in a stack`)
      const child = node.children.get(stepKey(step)) ?? { step, node: newNode() }
      node.children.set(stepKey(step), child)
      node = child.node
      if (index === observe) node.observed = true
    })
    node.ends.push(index)
  })
  return root
}

const countEdges = (node: StackNode): number =>
  [...node.children.values()].reduce((sum, child) => sum + 1 + countEdges(child.node), 0)

const countEnds = (node: StackNode): number =>
  [...node.children.values()].reduce((sum, child) => sum + countEnds(child.node), node.ends.length > 0 ? 1 : 0)

/** Layers that running each stack whole would run, and those that are run when prefixes are shared. */
export const layerRuns = (stacks: readonly Variant[]) => ({
  whole: stacks.reduce((sum, stack) => sum + stack.length, 0),
  shared: countEdges(prefixTree(stacks)),
})

export interface BatchRun {
  /** Index of the stack whose layers are observed: its scores carry sums and angles. */
  observe?: number | undefined
  /** Padded tokens of the next run: states of several stacks go through a layer together. */
  tokensPerRun(): number
  /** Wraps every run that computes; throws to stop before one. `tokens`: padded. */
  timed<T>(tokens: number, run: () => Promise<T>): Promise<T>
  /** Called after each run with the share of the batch's work that it was; the shares sum to 1. */
  ran(share: number): void
}

interface LiveState {
  node: StackNode
  hidden: Float32Array
  /** Whether it comes from a model's `tail`. */
  scoredOnly: boolean
}

/**
 * Scores of one batch, [stack][row]. Goes through the model once, layer by layer, with the states of all prefixes that are still
 * needed: as many as stacks at most.
 */
export async function scoreBatch(
  model: LayerwiseModel,
  rows: readonly ScoreRow[],
  stacks: readonly Variant[],
  { observe, tokensPerRun, timed, ran }: BatchRun,
): Promise<RowScore[][]> {
  const scores = new Array<RowScore[]>(stacks.length)
  const observer = observe === undefined ? undefined : layerObserver(rows, model.hiddenSize)
  const embedded = await model.embed(rows)
  const tokens = embedded.length / model.hiddenSize
  const repeated = new Map<number, ScoreRow[]>()
  const timesRows = (count: number) => {
    const known = repeated.get(count) ?? Array.from({ length: count }, () => rows).flat()
    repeated.set(count, known)
    return known
  }
  /** Runs `run` on as many states at a time as a run may hold. */
  const inGroups = async (
    states: readonly LiveState[],
    run: (group: readonly LiveState[], joined: Float32Array) => Promise<void>,
  ) => {
    for (let from = 0; from < states.length; ) {
      const group = states.slice(from, from + Math.max(1, Math.floor(tokensPerRun() / tokens)))
      from += group.length
      await run(group, joinStates(group))
      ran(group.length / work)
    }
  }

  const root = prefixTree(stacks, observe)
  const work = countEdges(root) + countEnds(root)
  let live: LiveState[] = [{ node: root, hidden: embedded, scoredOnly: false }]
  const steps = new Map(stacks.flat().map(step => [stepKey(step), step]))
  const byLayer = [...steps].sort(([, a], [, b]) => layerOf(a) - layerOf(b))
  for (let next = 0; next < byLayer.length; ) {
    const layer = layerOf(byLayer[next]![1])
    const grown: LiveState[] = []
    // The whole layer and its masked forms start from the same states.
    for (; next < byLayer.length && layerOf(byLayer[next]![1]) === layer; next++) {
      const [key, step] = byLayer[next]!
      const withoutGroups = groupsOf(step)
      const childOf = (node: StackNode) => node.children.get(key)!.node
      // Of the last layer of a stack that nobody observes, losses need only some rows.
      const isTail = (node: StackNode) =>
        model.tail !== undefined && withoutGroups === undefined && !node.observed && node.children.size === 0
      const takers = live.filter(({ node }) => node.children.has(key))
      for (const scoredOnly of [false, true]) {
        const own = takers.filter(({ node }) => isTail(childOf(node)) === scoredOnly)
        await inGroups(own, async (group, joined) => {
          const all = timesRows(group.length)
          const run = () =>
            scoredOnly ? model.tail!(layer, joined, all) : model.layer(layer, joined, all, withoutGroups)
          const out = await timed(tokens * group.length, run)
          const size = out.length / group.length
          group.forEach(({ node, hidden }, i) => {
            const child = { node: childOf(node), hidden: out.subarray(i * size, (i + 1) * size), scoredOnly }
            if (child.node.observed) observer?.add(hidden, child.hidden)
            grown.push(child)
          })
        })
      }
    }
    // A state is kept while a stack ends with it or goes on from it.
    live = [...live, ...grown].filter(
      ({ node }) => node.ends.length > 0 || [...node.children.values()].some(({ step }) => layerOf(step) > layer),
    )
  }
  for (const scoredOnly of [false, true]) {
    const ending = live.filter(state => state.node.ends.length > 0 && state.scoredOnly === scoredOnly)
    await inGroups(ending, async (group, joined) => {
      const own = await timed(tokens * group.length, () => model.losses(joined, timesRows(group.length), scoredOnly))
      group.forEach(({ node }, i) => {
        for (const stack of node.ends) scores[stack] = own.slice(i * rows.length, (i + 1) * rows.length)
      })
    })
  }
  if (observer && observe !== undefined) {
    const observed = observer.finish()
    scores[observe] = scores[observe]!.map((score, row) => ({ ...score, layers: observed[row] }))
  }
  return scores
}

function joinStates(states: readonly LiveState[]): Float32Array {
  const [first] = states
  if (states.length === 1) return first!.hidden
  const joined = new Float32Array(states.reduce((sum, s) => sum + s.hidden.length, 0))
  states.forEach(({ hidden }, i) => {
    joined.set(hidden, i * hidden.length)
  })
  return joined
}

/** Where the first value that is not a number appears when a stack runs: after a layer, in the embedding, or only in the loss. */
export async function findNotANumber(
  model: LayerwiseModel,
  rows: readonly ScoreRow[],
  stack: Variant,
): Promise<number | 'embedding' | 'loss'> {
  const broken = (hidden: Float32Array) => hidden.some(value => !Number.isFinite(value))
  let hidden = await model.embed(rows)
  if (broken(hidden)) return 'embedding'
  for (const step of stack) {
    hidden = await model.layer(layerOf(step), hidden, rows, groupsOf(step))
    if (broken(hidden)) return layerOf(step)
  }
  return 'loss'
}

/** Collects, layer by layer of one stack, what goes in and comes out: sums over tokens, mean vectors, and the last token's directions. */
function layerObserver(rows: readonly ScoreRow[], size: number) {
  const longest = Math.max(1, ...rows.map(row => row.ids.length))
  const collected = rows.map(() => ({
    cosine: [] as number[],
    norm: [] as number[],
    last: [] as Float32Array[],
    activation: [] as ActivationSums[],
    centroids: [] as Float32Array[],
  }))
  const lastToken = (hidden: Float32Array, row: number) => {
    const start = (row * longest + rows[row]!.ids.length - 1) * size
    return hidden.slice(start, start + size)
  }
  return {
    add(before: Float32Array, after: Float32Array) {
      collected.forEach((own, row) => {
        if (own.last.length === 0) own.last.push(lastToken(before, row))
        own.last.push(lastToken(after, row))
        let cosines = 0
        let norms = 0
        for (let i = 0; i < rows[row]!.ids.length; i++) {
          const from = (row * longest + i) * size
          const { cosine, norm } = compareVectors(before, after, from, from, size)
          cosines += cosine
          norms += norm
        }
        own.cosine.push(cosines)
        own.norm.push(norms)
        const centroid = new Float32Array(size)
        own.activation.push(activationSums(after, row * longest * size, rows[row]!.ids.length, size, centroid))
        own.centroids.push(centroid)
      })
    },
    finish: (): NonNullable<RowScore['layers']>[] =>
      collected.map(({ cosine, norm, last, activation, centroids }) => ({
        cosine,
        norm,
        activation,
        centroids,
        angles: Array.from({ length: Math.min(longestBlock, last.length - 1) }, (_, n) =>
          last.slice(0, last.length - 1 - n).map((input, layer) => {
            const { cosine } = compareVectors(input, last[layer + n + 1]!, 0, 0, size)
            return Math.acos(Math.min(1, Math.max(-1, cosine))) / Math.PI
          }),
        ),
      })),
  }
}

/** Cosine of two vectors, 0 where one of them has no direction, and the second one's L2 norm. */
function compareVectors(a: Float32Array, b: Float32Array, fromA: number, fromB: number, size: number) {
  let dot = 0
  let squareA = 0
  let squareB = 0
  for (let i = 0; i < size; i++) {
    const x = a[fromA + i]!
    const y = b[fromB + i]!
    dot += x * y
    squareA += x * x
    squareB += y * y
  }
  const scale = Math.sqrt(squareA) * Math.sqrt(squareB)
  return { cosine: scale === 0 ? 0 : dot / scale, norm: Math.sqrt(squareB) }
}
