// How much faster an analysis is with shared work than with every variant run whole: both on the same samples, in turns, in one process.
import { allOn, gatesWithout, stackWithout } from '../../compute/probing/layer-influence.js'
import type { EncodedSample, Scorer } from '../../compute/probing/scoring.js'
import { layerRuns } from '../../compute/probing/stacks.js'

/** Samples of similar length that both sides run before the turn changes. */
const perTurn = 5

/** Losses of every variant, each run whole through the gated graph: [variant][sample]. */
async function runWhole(
  scorer: Scorer,
  layerCount: number,
  samples: readonly EncodedSample[],
  layers: readonly number[],
) {
  const gates = [allOn(layerCount), ...layers.map(layer => gatesWithout(layerCount, [layer]))]
  const scores = await scorer.scoreRows(gates.flatMap(own => samples.map(sample => ({ ...sample, gates: own }))))
  return gates.map((_, i) => scores.slice(i * samples.length, (i + 1) * samples.length).map(s => s.nll))
}

async function timed<T>(run: () => Promise<T>) {
  const begin = performance.now()
  const cpu = process.cpuUsage()
  const result = await run()
  const { user, system } = process.cpuUsage(cpu)
  // On a machine that others use too processor time is the steadier of the two.
  return { result, seconds: (performance.now() - begin) / 1000, cpuSeconds: (user + system) / 1e6 }
}

/**
 * All samples with shared work; whole variants on every `wholeEvery`-th turn, 1: on all. Ratios are of the turns that both sides ran.
 * @returns seconds of both, their ratio and the greatest relative difference of any loss
 */
export async function compareSharing(
  scorer: Scorer,
  layerCount: number,
  samples: readonly EncodedSample[],
  wholeEvery: number,
) {
  const layers = Array.from({ length: layerCount }, (_, layer) => layer)
  const stacks = [stackWithout(layerCount), ...layers.map(layer => stackWithout(layerCount, layer))]
  // Sessions are made and batch sizes are learned outside the timing.
  const few = samples.slice(0, 2)
  await runWhole(scorer, layerCount, few, layers.slice(0, 1))
  await scorer.scoreStacks(few, stacks, { observe: 0 })

  const order = [...samples].sort((a, b) => b.ids.length - a.ids.length)
  const sums = { sharedAll: 0, shared: 0, whole: 0, sharedCpu: 0, wholeCpu: 0 }
  let wholeSamples = 0
  let largest = 0
  for (let turn = 0; turn * perTurn < order.length; turn++) {
    const own = order.slice(turn * perTurn, (turn + 1) * perTurn)
    const share = () => timed(() => scorer.scoreStacks(own, stacks, { observe: 0 }))
    // Half a period in, so that neither the longest nor the shortest samples are over-represented.
    if (turn % wholeEvery !== Math.floor(wholeEvery / 2)) {
      sums.sharedAll += (await share()).seconds
      continue
    }
    // Who begins changes from turn to turn.
    const first = wholeSamples % 2 === 0 ? await share() : undefined
    const whole = await timed(() => runWhole(scorer, layerCount, own, layers))
    const shared = first ?? (await share())
    wholeSamples += own.length
    sums.sharedAll += shared.seconds
    sums.shared += shared.seconds
    sums.whole += whole.seconds
    sums.sharedCpu += shared.cpuSeconds
    sums.wholeCpu += whole.cpuSeconds
    whole.result.forEach((losses, v) => {
      losses.forEach((nll, i) => {
        largest = Math.max(largest, Math.abs(shared.result[v]![i]!.nll / nll - 1))
      })
    })
    process.stderr.write(
      `${own[0]!.ids.length} tokens: whole ${whole.seconds.toFixed(1)} s, shared ${shared.seconds.toFixed(1)} s\n`,
    )
  }
  return {
    samples: samples.length,
    variants: stacks.length,
    layerRuns: layerRuns(stacks),
    sharedSecondsOfAll: sums.sharedAll,
    samplesRunBothWays: wholeSamples,
    wholeSeconds: sums.whole,
    sharedSeconds: sums.shared,
    sharedSpeedup: sums.whole / sums.shared,
    wholeCpuSeconds: sums.wholeCpu,
    sharedCpuSeconds: sums.sharedCpu,
    sharedCpuSpeedup: sums.wholeCpu / sums.sharedCpu,
    sharedLargestRelativeDifference: largest,
  }
}
