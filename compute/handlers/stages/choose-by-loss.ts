// Task relevance, measured: the heads that go are those without which the loss of the samples rises least, found layer by layer given what
// earlier layers have lost already, so that choices fit each other.
import type { HeadPruning } from '../../../lib/build-stages.js'
import { layerDimensions, type ResolvedDimensions } from '../../architectures/architecture.js'
import type { Hidden, LayerRunner, RunnerBatch } from '../../inference/layer-runner.js'

/** What is measured of each candidate. */
export interface Choice {
  layer: number
  /** Units that go, ascending. */
  removed: number[]
  /** Loss with all choices so far, nats per completion token, mean over capabilities. */
  loss: number
}

/** Mean over capabilities of summed losses over their completion tokens. */
export function meanLoss(batches: readonly RunnerBatch[], nll: readonly (readonly number[])[]): number {
  const sums = new Map<string, { nll: number; tokens: number }>()
  batches.forEach(({ samples }, b) => {
    samples.forEach(({ capability, ids, completionStart }, i) => {
      const sum = sums.get(capability) ?? { nll: 0, tokens: 0 }
      sum.nll += nll[b]![i]!
      sum.tokens += ids.length - Math.max(1, completionStart)
      sums.set(capability, sum)
    })
  })
  return [...sums.values()].reduce((total, sum) => total + sum.nll / sum.tokens, 0) / sums.size
}

/** Loss of states that stand before layer `from`, run to the end. */
export async function finishLoss(
  model: LayerRunner,
  from: number,
  states: readonly Hidden[],
  batches: readonly RunnerBatch[],
): Promise<number> {
  const nll: number[][] = []
  for (const [b, batch] of batches.entries()) {
    let hidden = states[b]!
    for (let layer = from; layer < model.dimensions.layerCount; layer++)
      hidden = await model.layer(layer, hidden, batch)
    nll.push(await model.losses(hidden, batch))
  }
  return meanLoss(batches, nll)
}

/** Query heads that a unit is. */
export function headsOfUnit(d: ResolvedDimensions, layer: number, unit: HeadPruning['unit'], index: number): number[] {
  if (unit === 'QUERY_HEAD') return [index]
  const { attentionHeadCount, keyValueHeadCount } = layerDimensions(d, layer)
  const perGroup = attentionHeadCount / keyValueHeadCount
  return Array.from({ length: perGroup }, (_, i) => index * perGroup + i)
}

/** The steps of a layer: from which units one goes at each. Query heads go from every group in turn. */
function stepsOf(d: ResolvedDimensions, layer: number, unit: HeadPruning['unit'], count: number): number[][] {
  const { attentionHeadCount, keyValueHeadCount } = layerDimensions(d, layer)
  const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i)
  if (unit === 'KEY_VALUE_GROUP') return new Array<number[]>(count).fill(range(0, keyValueHeadCount))
  const perGroup = attentionHeadCount / keyValueHeadCount
  return range(0, keyValueHeadCount).flatMap(group =>
    new Array<number[]>(count).fill(range(group * perGroup, (group + 1) * perGroup)),
  )
}

/** Layer runs that a choice takes, for progress. */
export function choiceRuns(d: ResolvedDimensions, unit: HeadPruning['unit'], counts: readonly number[]): number {
  return counts.reduce(
    (sum, count, layer) =>
      sum + 1 + stepsOf(d, layer, unit, count).reduce((own, units) => own + units.length * (d.layerCount - layer), 0),
    0,
  )
}

/**
 * Chooses what goes from each layer.
 * @param known choices of an earlier attempt, taken over as far as they go
 * @param chosen called with each layer's choice as it is made
 * @param ran called with the layer runs done
 */
export async function chooseByLoss(
  model: LayerRunner,
  batches: readonly RunnerBatch[],
  unit: HeadPruning['unit'],
  counts: readonly number[],
  {
    known = [],
    chosen,
    ran,
  }: {
    known?: readonly Choice[]
    chosen: (choice: Choice) => Promise<void>
    ran: (runs: number) => void
  },
): Promise<Choice[]> {
  const { dimensions: d } = model
  const headsOf = (layer: number, units: readonly number[]) =>
    units.flatMap(index => headsOfUnit(d, layer, unit, index))
  const through = async (layer: number, states: readonly Hidden[], units: readonly number[]) => {
    const after: Hidden[] = []
    for (const [b, batch] of batches.entries()) {
      const removed = headsOf(layer, units)
      after.push(
        removed.length > 0
          ? (await model.observe(layer, states[b]!, batch, { removed })).hidden
          : await model.layer(layer, states[b]!, batch),
      )
    }
    return after
  }
  let states: Hidden[] = []
  for (const batch of batches) states.push(await model.embed(batch))
  const choices: Choice[] = []
  for (const [layer, count] of counts.entries()) {
    let choice = known.find(one => one.layer === layer && choices.length === layer)
    if (!choice) {
      const removed: number[] = []
      let loss = Number.NaN
      for (const units of stepsOf(d, layer, unit, count)) {
        let best: { index: number; loss: number } | undefined
        for (const index of units) {
          if (removed.includes(index)) continue
          const after = await through(layer, states, [...removed, index])
          const found = await finishLoss(model, layer + 1, after, batches)
          ran(d.layerCount - layer)
          if (!best || found < best.loss) best = { index, loss: found }
        }
        if (!best) break
        removed.push(best.index)
        loss = best.loss
      }
      choice = { layer, removed: removed.sort((a, b) => a - b), loss }
      // JSON knows no NaN, and a layer that loses nothing has no loss of its own.
      if (count > 0) await chosen(choice)
    }
    choices.push(choice)
    states = await through(layer, states, choice.removed)
    ran(1)
  }
  return choices
}
