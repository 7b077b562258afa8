// Projections fitted anew by least squares and judged by the loss on samples: what is tried lies in files of the stage, what is kept goes into
// the store.
import { randomUUID } from 'node:crypto'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { maximumFitInputs } from '../../../lib/build-stages.js'
import type { Manifest, ManifestTensor, TensorSlice } from '../../../lib/manifest.js'
import { checkBuildable } from '../../architectures/registry.js'
import { readTensorFloat32 } from '../../formats/float-weights.js'
import { type LayerRunner, openLayers, type Statistics } from '../../inference/layer-runner.js'
import { ridgeFrom } from '../../surgery/least-squares.js'
import type { StageContext } from '../build-stages.js'

/** What a fit is made of, whatever its pull. */
export interface FitSums {
  gram: Float64Array
  cross: Float64Array
  prior: Float32Array
  inputs: number
  outputs: number
}

type Products = Parameters<Statistics['productSums']>[0]

/** The projection of a role where it can be fitted; else undefined, with a note where its size is why. */
export function fittableTensor(manifest: Manifest, role: string, notes: string[]): ManifestTensor | undefined {
  const { inputFirst, tensors } = checkBuildable(manifest)
  const tensor = manifest.tensors.find(t => t.role === role)
  // A bias or a matrix stored the other way round is not fitted.
  if (!tensor || inputFirst.has(role) || tensors.has(`${role}_bias`)) return undefined
  const inputs = tensor.shape[1]!
  if (inputs <= maximumFitInputs) return tensor
  notes.push(`${tensor.name}: not fitted, ${inputs} inputs, at most ${maximumFitInputs}`)
  return undefined
}

/** @param tokens what goes in (a), what shall come out (b), and what each token counts */
export async function fitSums(
  statistics: Statistics,
  tensor: ManifestTensor,
  tokens: Products,
  { payloads }: StageContext,
): Promise<FitSums> {
  const [outputs, inputs] = tensor.shape as [number, number]
  return {
    gram: await statistics.productSums(tokens.map(({ a, weights }) => ({ a, b: a, weights }))),
    cross: await statistics.productSums(tokens),
    prior: await readTensorFloat32(payloads, tensor),
    inputs,
    outputs,
  }
}

/** @param progress called with the share that is solved; solving takes minutes at the most inputs */
export const fitWith = (
  { gram, cross, prior, inputs, outputs }: FitSums,
  ridge: number,
  { signal }: StageContext,
  progress: (share: number) => void,
) => ridgeFrom(gram, cross, prior, { inputs, outputs, ridge, signal, progress })

/** A model with some matrices replaced, by role. */
export interface Trial {
  values: ReadonlyMap<string, Float32Array>
  model: LayerRunner
  dispose(): Promise<void>
}

export async function openTrial(
  manifest: Manifest,
  values: ReadonlyMap<string, Float32Array>,
  context: StageContext,
): Promise<Trial> {
  const files = new Map([...values.keys()].map(role => [role, join(context.folder, `trial-${randomUUID()}`)]))
  const remove = async () => {
    for (const file of files.values()) await rm(file, { force: true })
  }
  try {
    await mkdir(context.folder, { recursive: true })
    for (const [role, file] of files) await writeFile(file, values.get(role)!)
    const model = await openLayers(manifest, context, files)
    return {
      values,
      model,
      dispose: async () => {
        await model.dispose()
        await remove()
      },
    }
  } catch (error) {
    await remove()
    throw error
  }
}

/**
 * The trial with the least loss, where that is below `before`: the caller disposes of it. All others are disposed of, and all where judging
 * fails.
 */
export async function bestTrial<T extends Trial>(
  trials: AsyncIterable<T>,
  before: number,
  judge: (model: LayerRunner) => Promise<number>,
): Promise<(T & { after: number }) | undefined> {
  let best: (T & { after: number }) | undefined
  try {
    for await (const trial of trials) {
      let left: Trial | undefined = trial
      try {
        const after = await judge(trial.model)
        if (after < (best?.after ?? before)) {
          left = best
          best = { ...trial, after }
        }
      } finally {
        await left?.dispose()
      }
    }
    return best
  } catch (error) {
    await best?.dispose()
    throw error
  }
}

/** The manifest with a trial's values, which go into the store. @param slice what the tensor was cut from, as the manifest says it */
export async function withTrial(
  manifest: Manifest,
  { values }: Trial,
  slice: (tensor: ManifestTensor) => TensorSlice,
  { payloads, signal }: StageContext,
): Promise<Manifest> {
  const tensors = [...manifest.tensors]
  for (const [role, own] of values) {
    const index = tensors.findIndex(t => t.role === role)
    const tensor = tensors[index]!
    const { hash: payload, bytes } = await payloads.put(
      [new Uint8Array(own.buffer, own.byteOffset, own.byteLength)],
      signal,
    )
    tensors[index] = { ...tensor, dtype: 'F32', bytes, payload, slice: slice(tensor) }
  }
  return { ...manifest, tensors }
}
