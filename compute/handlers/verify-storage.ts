// `storage.verify`: every payload is read again; what has changed is set aside, what living models need and is not there is listed.
import { rm } from 'node:fs/promises'
import { basename } from 'node:path'
import { manifestParts } from '../../lib/manifest.js'
import { throwIfAborted } from '../../payloads/file-payload-store.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import { listDerived } from '../formats/float-weights.js'
import { readManifest } from '../formats/manifest.js'
import type { JobInput, JobOutput } from '../pool/job-types.js'
import type { Handler } from './handler.js'

const maximumAffected = 100

export const verifyStorage: Handler<'storage.verify'> = async (input, { payloads, dataFolder, signal, progress }) => {
  const all: { hash: string; bytes: number }[] = []
  for await (const payload of payloads.list()) all.push(payload)
  const total = all.reduce((sum, p) => sum + p.bytes, 0)
  const corrupt = new Set<string>()
  let bytes = 0
  for (const payload of all) {
    throwIfAborted(signal)
    progress({ stage: 'verify', completed: bytes, total, unit: 'bytes' })
    if (!(await isWhole(payloads, payload.hash, signal))) corrupt.add(payload.hash)
    bytes += payload.bytes
  }
  progress({ stage: 'verify', completed: bytes, total, unit: 'bytes' })
  const found = await findDamage(input, payloads, corrupt, signal)
  // Only now: the manifests among them were still asked for.
  for (const hash of corrupt) await payloads.quarantine(hash)
  // What was made of a corrupt payload may be as wrong as that; a file made of several names only the first ("+" and a hash of the others).
  if (corrupt.size > 0) {
    for await (const file of listDerived(dataFolder))
      if (corrupt.has(file.payload) || basename(file.path).includes('+')) await rm(file.path, { force: true })
  }
  return { payloads: all.length, bytes, corrupt: [...corrupt], ...found }
}

/** Read twice before it counts as corrupt: it may just have been replaced. */
async function isWhole(payloads: PayloadStore, hash: string, signal: AbortSignal): Promise<boolean> {
  for (let attempt = 0; attempt < 2; attempt++) if ((await payloads.verify(hash, signal)).hash === hash) return true
  return false
}

/** Missing payloads, and which parts of the models they and the corrupt ones are. */
async function findDamage(
  { manifests = [], payloads: loose = [] }: JobInput<'storage.verify'>,
  payloads: PayloadStore,
  corrupt: ReadonlySet<string>,
  signal: AbortSignal,
): Promise<Pick<JobOutput<'storage.verify'>, 'missing' | 'affected'>> {
  const missing = new Set<string>()
  const affected: JobOutput<'storage.verify'>['affected'] = []
  const check = async (hash: string, part: string, manifest?: string): Promise<boolean> => {
    if (!corrupt.has(hash)) {
      if (!missing.has(hash) && (await payloads.has(hash))) return true
      missing.add(hash)
    }
    if (affected.length < maximumAffected) affected.push({ hash, part, manifest })
    return false
  }
  for (const hash of loose) await check(hash, 'probe set or mean activations')
  for (const hash of manifests) {
    throwIfAborted(signal)
    if (!(await check(hash, 'manifest', hash))) continue
    for (const { payload, part } of manifestParts(await readManifest(payloads, hash))) await check(payload, part, hash)
  }
  return { missing: [...missing], affected }
}
