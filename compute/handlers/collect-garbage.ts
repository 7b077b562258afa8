// `storage.collect`: marks what the living manifests and loose payloads need, removes all other payloads and exports, then what only killed jobs left.
import { rm } from 'node:fs/promises'
import { manifestPayloads } from '../../lib/manifest.js'
import { throwIfAborted } from '../../payloads/file-payload-store.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import { listDerived } from '../formats/float-weights.js'
import { readManifest } from '../formats/manifest.js'
import { removeStaleDownloads } from '../sources/download-folder.js'
import { removeDeadRecords } from './analysis-records.js'
import { removeOtherExports, removeUnfinishedExports } from './export-folder.js'
import type { Handler } from './handler.js'

/**
 * Everything the manifests need. Ancestors' manifests stay as lineage; their payloads only where a living model needs them.
 * @throws DomainError PAYLOAD_MISSING or PAYLOAD_CORRUPT where a living manifest cannot be read: nothing may be removed then
 */
async function mark(payloads: PayloadStore, manifests: readonly string[], alive: Set<string>) {
  for (const hash of manifests) {
    const manifest = await readManifest(payloads, hash)
    alive.add(hash)
    for (const needed of manifestPayloads(manifest)) alive.add(needed)
    for (let above = manifest.parent?.manifest; above && !alive.has(above) && (await payloads.has(above)); ) {
      alive.add(above)
      above = (await readManifest(payloads, above)).parent?.manifest
    }
  }
}

/** Runs alone (the job type is exclusive), so that no running job can need what is removed. */
export const collectGarbage: Handler<'storage.collect'> = async (input, context) => {
  const { payloads, signal, dataFolder, progress } = context
  const alive = new Set(input.payloads)
  await mark(payloads, input.manifests, alive)
  const dead: { hash: string; bytes: number }[] = []
  for await (const payload of payloads.list()) if (!alive.has(payload.hash)) dead.push(payload)
  let removed = 0
  let bytes = 0
  for (const payload of dead) {
    throwIfAborted(signal)
    await payloads.remove(payload.hash)
    removed++
    bytes += payload.bytes
    progress({ stage: 'collect', completed: removed, total: dead.length, unit: 'payloads' })
  }
  await payloads.removeTemporary(true)
  await payloads.removeQuarantined(hash => alive.has(hash))
  for await (const file of listDerived(dataFolder)) if (!alive.has(file.payload)) await rm(file.path, { force: true })
  await removeDeadRecords(dataFolder, alive)
  await removeStaleDownloads(dataFolder)
  await removeUnfinishedExports(dataFolder)
  const exports = input.exports ? await removeOtherExports(dataFolder, input.exports) : { removed: 0, bytes: 0 }
  return { removed, bytes: bytes + exports.bytes, exports: exports.removed }
}
