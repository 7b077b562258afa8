// `storage.collect`: marks what the living manifests and loose payloads need, removes all other payloads and exports, then what only killed jobs left.
import { rm } from 'node:fs/promises'
import { manifestPayloads } from '../../lib/manifest.js'
import { throwIfAborted } from '../../payloads/file-payload-store.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import { listDerived } from '../formats/float-weights.js'
import { readManifest } from '../formats/manifest.js'
import { jobTypes } from '../pool/job-types.js'
import { removeStaleDownloads } from '../sources/download-folder.js'
import { trimTeachers } from '../training/teacher-cache.js'
import { removeDeadRecords } from './analysis-records.js'
import { keptStages } from './build-student.js'
import { removeOtherExports, removeUnfinishedExports } from './export-folder.js'
import type { Handler } from './handler.js'
import { removeStages } from './stage-records.js'

/**
 * Everything the manifests need. Ancestors' manifests stay as lineage; their payloads only where a living model needs them.
 * @throws DomainError PAYLOAD_MISSING or PAYLOAD_CORRUPT where a living manifest cannot be read: nothing may be removed then
 */
async function mark(
  payloads: PayloadStore,
  manifests: readonly string[],
  alive: Set<string>,
  whole = new Set<string>(),
): Promise<void> {
  for (const hash of manifests) {
    if (whole.has(hash)) continue
    whole.add(hash)
    const manifest = await readManifest(payloads, hash)
    alive.add(hash)
    for (const needed of manifestPayloads(manifest)) alive.add(needed)
    // A fused model can be had back as it was.
    const { fusedFrom } = manifest
    if (fusedFrom && (await payloads.has(fusedFrom))) await mark(payloads, [fusedFrom], alive, whole)
    for (let above = manifest.parent?.manifest; above && !alive.has(above) && (await payloads.has(above)); ) {
      alive.add(above)
      above = (await readManifest(payloads, above)).parent?.manifest
    }
  }
}

/** Marks what builds that may go on have made so far; keys of their stages. What is damaged or gone is made again by the build itself. */
async function markBuilds(
  payloads: PayloadStore,
  dataFolder: string,
  builds: readonly unknown[],
  alive: Set<string>,
): Promise<Set<string>> {
  const kept = new Set<string>()
  for (const build of builds) {
    const input = jobTypes['student.build'].input.safeParse(build)
    if (!input.success) continue
    const { keys, manifests } = await keptStages(input.data, dataFolder)
    for (const key of keys) kept.add(key)
    for (const manifest of manifests) {
      const own = new Set(alive)
      const read = await mark(payloads, [manifest], own).then(
        () => true,
        () => false,
      )
      if (read) for (const hash of own) alive.add(hash)
    }
  }
  return kept
}

/** Runs alone (the job type is exclusive), so that no running job can need what is removed. */
export const collectGarbage: Handler<'storage.collect'> = async (input, context) => {
  const { payloads, signal, dataFolder, progress } = context
  const alive = new Set(input.payloads)
  await mark(payloads, input.manifests, alive)
  const stages = await markBuilds(payloads, dataFolder, input.builds ?? [], alive)
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
  await removeDeadRecords(dataFolder, alive, input.searches)
  await removeStages(dataFolder, stages, alive)
  await trimTeachers(dataFolder, alive, context.env.HARTONOMOUS_DERIVED_BYTES)
  await removeStaleDownloads(dataFolder)
  await removeUnfinishedExports(dataFolder)
  const exports = input.exports ? await removeOtherExports(dataFolder, input.exports) : { removed: 0, bytes: 0 }
  return { removed, bytes: bytes + exports.bytes, exports: exports.removed }
}
