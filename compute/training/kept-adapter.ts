// Low-rank changes as a manifest keeps them, beside the weights they were merged into.
import type { Adapter, ManifestTensor } from '../../lib/manifest.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import type { TrainedTensor } from './adamw.js'
import { type LoraSpec, loraA, loraB } from './training-graph.js'
import type { TrainingModel } from './training-model.js'

/** Writes the factors. `before`: the manifest that was trained; `after`: the tensors of the one with the changes merged. */
export async function keptAdapter(
  { rank, alpha, targets }: LoraSpec,
  { tensors: factors, model }: Pick<TrainingModel, 'tensors' | 'model'>,
  before: string,
  after: readonly ManifestTensor[],
  { payloads, signal }: { payloads: PayloadStore; signal?: AbortSignal },
): Promise<Adapter> {
  const put = async ({ weight }: TrainedTensor) =>
    (await payloads.put([new Uint8Array(weight.buffer, weight.byteOffset, weight.byteLength)], signal)).hash
  const byName = new Map(factors.map(factor => [factor.name, factor]))
  const changes: Adapter['changes'] = []
  for (const role of targets) {
    const base = model.tensors.get(role)!
    const merged = after.find(({ name }) => name === base.name)!.payload
    const [a, b] = [await put(byName.get(loraA(role))!), await put(byName.get(loraB(role))!)]
    changes.push({ role, base, merged, a, b })
  }
  return { rank, alpha, of: before, changes }
}
