// student.build: runs the stages that the recipe asks for, one manifest after the other; what was made before, by an attempt that was
// stopped or by another build that began alike, is taken over, and what another build is at right now is waited for.
import { rm } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { isDomainError } from '../../lib/errors.js'
import { tryLock } from '../../lib/file-lock.js'
import { throwIfAborted } from '../../payloads/file-payload-store.js'
import { readManifest } from '../formats/manifest.js'
import type { StageResult } from '../pool/job-types.js'
import { type BuildInput, type BuildStage, buildStages, stagesOf } from './build-stages.js'
import { checkPayloads } from './check-payloads.js'
import type { Handler, HandlerContext } from './handler.js'
import {
  readStageRecord,
  type StageRecord,
  stageFolder,
  stageKey,
  stageLockFile,
  writeStageRecord,
} from './stage-records.js'

/** A kept result whose payloads are all there; undefined where it must be made (again). */
async function usableRecord(key: string, { dataFolder, payloads, signal }: HandlerContext) {
  const record = await readStageRecord(dataFolder, key)
  if (!record) return undefined
  try {
    await checkPayloads(payloads, await readManifest(payloads, record.manifest), signal)
    return record
  } catch (error) {
    if (isDomainError(error) && (error.code === 'PAYLOAD_MISSING' || error.code === 'PAYLOAD_CORRUPT')) return undefined
    throw error
  }
}

/** Between two looks whether another job has made the stage's result. */
const lookEveryMs = 250

/** What was made before, also by another job that is at it now; or, where nobody is, the lock to make it under. */
async function recordOrLock(key: string, stage: string, context: HandlerContext): Promise<StageRecord | (() => void)> {
  const { dataFolder, signal, progress } = context
  for (;;) {
    const known = await usableRecord(key, context)
    if (known) return known
    const release = tryLock(stageLockFile(dataFolder, key))
    if (release) {
      // Its maker may have ended between the look and the lock.
      const since = await usableRecord(key, context).catch(error => {
        release()
        throw error
      })
      if (!since) return release
      await rm(stageLockFile(dataFolder, key), { force: true })
      release()
      return since
    }
    progress({ stage, completed: 0, total: 1, unit: 'other builds at this stage' })
    await sleep(lookEveryMs, undefined, { signal }).catch(() => {})
    throwIfAborted(signal)
  }
}

/** Codes of what the same training ends with however often it runs. */
const final: ReadonlySet<string> = new Set(['NOT_IMPROVED', 'NOT_A_NUMBER'])

/** Runs the stages in order; their results, the last one's manifest being the student. */
export async function runStages(
  input: BuildInput,
  context: HandlerContext,
  stages: readonly BuildStage[] = buildStages,
): Promise<StageResult[]> {
  const { dataFolder, signal } = context
  const results: StageResult[] = []
  let manifest = input.parent
  const asked = stagesOf(input, stages)
  for (const { stage, parameters } of asked) {
    throwIfAborted(signal)
    const key = stageKey(stage.name, stage.version, parameters, manifest)
    const release = await recordOrLock(key, stage.name, context)
    if (typeof release !== 'function') {
      context.progress({ stage: stage.name, completed: 1, total: 1, unit: 'results taken over' })
      results.push(resultOf(release, true))
    } else {
      try {
        const folder = stageFolder(dataFolder, key)
        const begin = performance.now()
        const outcome = await stage.run(manifest, parameters, { ...context, input, folder })
        const seconds = (performance.now() - begin) / 1000
        const record: StageRecord = { stage: stage.name, key, input: manifest, seconds, ...outcome }
        await writeStageRecord(dataFolder, record)
        await rm(folder, { recursive: true, force: true })
        // Whoever waits with the old file open finds the record first.
        await rm(stageLockFile(dataFolder, key), { force: true })
        results.push(resultOf(record, false))
      } catch (error) {
        // It would end so again: what it kept to go on from serves nobody.
        if (isDomainError(error) && final.has(error.code))
          await rm(stageFolder(dataFolder, key), { recursive: true, force: true })
        throw error
      } finally {
        release()
      }
    }
    manifest = results.at(-1)!.manifest
  }
  return results
}

const resultOf = ({ input: _before, ...record }: StageRecord, reused: boolean): StageResult => ({ ...record, reused })

/** Keys of the stages of a build as far as they are done, the one after them included, and the manifests they made. */
export async function keptStages(input: BuildInput, dataFolder: string) {
  const keys: string[] = []
  const manifests: string[] = []
  let manifest = input.parent
  for (const { stage, parameters } of stagesOf(input)) {
    const key = stageKey(stage.name, stage.version, parameters, manifest)
    keys.push(key)
    const record = await readStageRecord(dataFolder, key)
    if (!record) break
    manifest = record.manifest
    manifests.push(manifest)
  }
  return { keys, manifests }
}

export const buildStudent: Handler<'student.build'> = async (input, context) => {
  const stages = await runStages(input, context)
  const manifest = stages.at(-1)!.manifest
  const { parameterCount, dimensions } = await readManifest(context.payloads, manifest)
  return { manifest, parameterCount, layerCount: dimensions.layerCount, stages }
}
