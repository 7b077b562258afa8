// What mutations must know about the model they are given: that it exists, was not deleted, and can be run at all.
import type { EntityManager } from 'typeorm'
import type { ModelAtom } from '../../db/entities/index.js'
import { aliveModel } from '../../db/models.js'
import { DomainError } from '../../lib/errors.js'
import { fromGlobalId } from '../../lib/ids.js'
import type { Manifest } from '../../lib/manifest.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import { readManifest } from './read-manifest.js'

/**
 * The model row behind a global id.
 * @throws NOT_FOUND where the id is unknown or the model was deleted
 */
export const liveModel = async (
  em: EntityManager,
  tenantId: string,
  globalId: string,
  field = ['input', 'modelId'],
): Promise<ModelAtom> => aliveModel(em, tenantId, fromGlobalId('Model', globalId, field), field)

/**
 * The manifest of a model that is to read or write text, checked as far as the control plane can tell before a job is queued;
 * whether its architecture runs is known to the workers only.
 * @throws UNSUPPORTED_ARCHITECTURE where the source does not even name one or has no layers, NO_TOKENIZER
 */
export async function runnableManifest(
  payloads: PayloadStore,
  model: Pick<ModelAtom, 'name' | 'architecture' | 'layerCount' | 'manifestHash'>,
  field = ['input', 'modelId'],
): Promise<Manifest> {
  if (model.architecture === 'unknown' || model.layerCount < 1)
    throw new DomainError(
      'UNSUPPORTED_ARCHITECTURE',
      `Model "${model.name}" has the architecture "${model.architecture}" with ${model.layerCount} layers: it cannot be run`,
      { field },
    )
  const manifest = await readManifest(payloads, model.manifestHash)
  if (!manifest.tokenizer)
    throw new DomainError('NO_TOKENIZER', `Model "${model.name}" came without a tokenizer that is read here`, { field })
  return manifest
}
