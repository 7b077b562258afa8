// Stacks of layers that share their first layers, scored together: every distinct prefix is computed once.
import type { RowScore, ScoreRow } from './scoring.js'

/** Indices of the layers that run, in their order; the others are skipped: their input goes on unchanged. */
export type Stack = readonly number[]

/** A model in pieces; the residual stream of a batch is [rows * longest row, hidden], padded on the right. */
export interface LayerwiseModel {
  hiddenSize: number
  embed(rows: readonly ScoreRow[]): Promise<Float32Array>
  layer(index: number, hidden: Float32Array, rows: readonly ScoreRow[]): Promise<Float32Array>
  losses(hidden: Float32Array, rows: readonly ScoreRow[]): Promise<RowScore[]>
}

/** Blocks of 1 to this many layers have their angular distance measured. */
export const longestBlock = 8

/** A prefix tree: an edge is a layer, a node the state after it. */
export interface StackNode {
  children: Map<number, StackNode>
  /** Which of the given stacks end here. */
  ends: number[]
  /** Whether the observed stack passes through. */
  observed: boolean
}

/** Layers of a stack ascend, as a model runs them. */
export function prefixTree(stacks: readonly Stack[], observe?: number): StackNode {
  const newNode = (): StackNode => ({ children: new Map(), ends: [], observed: false })
  const root = newNode()
  stacks.forEach((stack, index) => {
    let node = root
    stack.forEach((layer, i) => {
      if (i > 0 && layer <= stack[i - 1]!) throw new Error(`layer ${layer} follows layer ${stack[i - 1]} in a stack`)
      const child = node.children.get(layer) ?? newNode()
      node.children.set(layer, child)
      node = child
      if (index === observe) node.observed = true
    })
    node.ends.push(index)
  })
  return root
}

const countEdges = (node: StackNode): number =>
  [...node.children.values()].reduce((sum, child) => sum + 1 + countEdges(child), 0)

const countEnds = (node: StackNode): number =>
  [...node.children.values()].reduce((sum, child) => sum + countEnds(child), node.ends.length > 0 ? 1 : 0)

/** Layers that running each stack whole would run, and those that are run when prefixes are shared. */
export const layerRuns = (stacks: readonly Stack[]) => ({
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
}

/**
 * Scores of one batch, [stack][row]. Goes through the model once, layer by layer, with the states of all prefixes that are still
 * needed: as many as stacks at most.
 */
export async function scoreBatch(
  model: LayerwiseModel,
  rows: readonly ScoreRow[],
  stacks: readonly Stack[],
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
  let live: LiveState[] = [{ node: root, hidden: embedded }]
  const layers = [...new Set(stacks.flat())].sort((a, b) => a - b)
  for (const layer of layers) {
    const takers = live.filter(({ node }) => node.children.has(layer))
    const grown: LiveState[] = []
    await inGroups(takers, async (group, joined) => {
      const out = await timed(tokens * group.length, () => model.layer(layer, joined, timesRows(group.length)))
      group.forEach(({ node, hidden }, i) => {
        const child = {
          node: node.children.get(layer)!,
          hidden: out.subarray(i * embedded.length, (i + 1) * embedded.length),
        }
        if (child.node.observed) observer?.add(hidden, child.hidden)
        grown.push(child)
      })
    })
    // A state is kept while a stack ends with it or goes on from it.
    live = [...live, ...grown].filter(
      ({ node }) => node.ends.length > 0 || [...node.children.keys()].some(next => next > layer),
    )
  }
  await inGroups(
    live.filter(({ node }) => node.ends.length > 0),
    async (group, joined) => {
      const own = await timed(tokens * group.length, () => model.losses(joined, timesRows(group.length)))
      group.forEach(({ node }, i) => {
        for (const stack of node.ends) scores[stack] = own.slice(i * rows.length, (i + 1) * rows.length)
      })
    },
  )
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
  stack: Stack,
): Promise<number | 'embedding' | 'loss'> {
  const broken = (hidden: Float32Array) => hidden.some(value => !Number.isFinite(value))
  let hidden = await model.embed(rows)
  if (broken(hidden)) return 'embedding'
  for (const layer of stack) {
    hidden = await model.layer(layer, hidden, rows)
    if (broken(hidden)) return layer
  }
  return 'loss'
}

/** Collects, layer by layer of one stack, what goes in and comes out: sums over tokens, and the last token's directions. */
function layerObserver(rows: readonly ScoreRow[], size: number) {
  const longest = Math.max(1, ...rows.map(row => row.ids.length))
  const collected = rows.map(() => ({ cosine: [] as number[], norm: [] as number[], last: [] as Float32Array[] }))
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
      })
    },
    finish: (): NonNullable<RowScore['layers']>[] =>
      collected.map(({ cosine, norm, last }) => ({
        cosine,
        norm,
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
