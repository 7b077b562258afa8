// The residual stream of batches of samples, carried through models layer by layer.
import type { Hidden, LayerRunner, RunnerBatch } from '../../inference/layer-runner.js'

type Batches = readonly RunnerBatch[]

export async function embedded(model: LayerRunner, batches: Batches): Promise<Hidden[]> {
  const states: Hidden[] = []
  for (const batch of batches) states.push(await model.embed(batch))
  return states
}

export async function through(model: LayerRunner, layer: number, states: readonly Hidden[], batches: Batches) {
  const after: Hidden[] = []
  for (const [b, batch] of batches.entries()) after.push(await model.layer(layer, states[b]!, batch))
  return after
}

/** The stream before any layer, run on as far as it is asked for; asked for an earlier one, it begins again. */
export function streamOf(model: LayerRunner, batches: Batches): (layer: number) => Promise<Hidden[]> {
  let [at, states] = [0, undefined as Hidden[] | undefined]
  return async layer => {
    if (!states || layer < at) [at, states] = [0, await embedded(model, batches)]
    for (; at < layer; at++) states = await through(model, at, states, batches)
    return states
  }
}

/** The stream between the two blocks of a layer. */
export async function betweenBlocks(model: LayerRunner, layer: number, states: readonly Hidden[], batches: Batches) {
  const middle: Hidden[] = []
  for (const [b, batch] of batches.entries()) {
    const { taps } = await model.observe(layer, states[b]!, batch, { taps: ['attention'] })
    const added = taps.attention!.data as Float32Array
    middle.push(states[b]!.map((value, i) => value + added[i]!))
  }
  return middle
}
