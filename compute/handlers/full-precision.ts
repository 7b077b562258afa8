// Where a model that was quantised here has its values from before: rounding rounded weights again would add up both errors.
import { DomainError } from '../../lib/errors.js'
import type { Manifest } from '../../lib/manifest.js'
import { holdsModel } from '../../payloads/holds-model.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import { isQuantized } from '../formats/ggml-types.js'
import { readManifest } from '../formats/manifest.js'

export interface NamedManifest {
  hash: string
  manifest: Manifest
}

/** The model where the store has all of it; undefined where it, or all but its manifest, was collected. */
async function wholeModel(hash: string, payloads: PayloadStore): Promise<NamedManifest | undefined> {
  if (!(await payloads.has(hash))) return undefined
  const manifest = await readManifest(payloads, hash)
  return (await holdsModel(payloads, manifest)) ? { hash, manifest } : undefined
}

/** The manifest, and after it the one it was quantised from where all of that is kept. */
export async function withFullPrecision(hash: string, payloads: PayloadStore): Promise<NamedManifest[]> {
  const manifest = await readManifest(payloads, hash)
  const before = manifest.quantisedFrom && (await wholeModel(manifest.quantisedFrom, payloads))
  return [{ hash, manifest }, ...(before ? [before] : [])]
}

/**
 * Hash of the model that a student of `parent` was cut from, as the student's manifest names it: where `quantization` is asked for, the one
 * that the parent was quantised from here (see extract.ts). Stages that compare a student with its parent compare with this one.
 */
export const cutFrom = async (student: string, parent: string, payloads: PayloadStore): Promise<string> =>
  (await readManifest(payloads, student)).parent?.manifest ?? parent

const conflict = (message: string) => new DomainError('CONFLICT', message, { field: ['input', 'modelId'] })

/**
 * The manifest to quantise: models that were quantised here begin anew with the values they were made of.
 * @param requantize takes rounded values as they are where there are no others
 * @throws CONFLICT where those are gone or never were here
 */
export async function fullPrecision(hash: string, requantize: boolean, payloads: PayloadStore): Promise<NamedManifest> {
  const [own, before] = await withFullPrecision(hash, payloads)
  if (before) return before
  const { manifest } = own!
  const rounded = manifest.tensors.find(t => isQuantized(t.dtype))
  if (!rounded || requantize) return own!
  const what = `${rounded.name} is ${rounded.dtype}`
  const way = 'rounding rounded weights again adds up both errors. With requantize its values are taken as they are'
  if (manifest.quantisedFrom)
    throw conflict(
      `The model was quantised here (${what}), and the full-precision model it was made of (manifest ${manifest.quantisedFrom.slice(0, 12)}) was deleted or is damaged: ${way}`,
    )
  const above = manifest.parent?.manifest
  const ofRounded = above && (await payloads.has(above)) && (await readManifest(payloads, above)).quantisedFrom
  if (ofRounded) {
    const better = (await wholeModel(ofRounded, payloads))
      ? 'cut or prune the full-precision one, or say `quantization` in the recipe, which then begins with it'
      : `the full-precision one (manifest ${ofRounded.slice(0, 12)}) was deleted or is damaged`
    throw conflict(`The model was made of one that had been quantised here (${what}): ${better}; ${way}`)
  }
  throw conflict(`The model came quantised (${what}) and no full-precision source of it is here: ${way}`)
}
