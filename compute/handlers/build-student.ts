// student.build: runs the stages that the recipe asks for, one manifest after the other; what was made before, by an attempt that was
// stopped or by another build that began alike, is taken over.
import { rm } from 'node:fs/promises'
import { isDomainError } from '../../lib/errors.js'
import { throwIfAborted } from '../../payloads/file-payload-store.js'
import { readManifest } from '../formats/manifest.js'
import type { StageResult } from '../pool/job-types.js'
import { type BuildInput, type BuildStage, buildStages, stagesOf } from './build-stages.js'
import { checkPayloads } from './check-payloads.js'
import type { Handler, HandlerContext } from './handler.js'
import { readStageRecord, type StageRecord, stageFolder, stageKey, writeStageRecord } from './stage-records.js'

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
    const known = await usableRecord(key, context)
    if (known) {
      context.progress({ stage: stage.name, completed: 1, total: 1, unit: 'results taken over' })
      results.push(resultOf(known, true))
    } else {
      const folder = stageFolder(dataFolder, key)
      const begin = performance.now()
      const outcome = await stage.run(manifest, parameters, { ...context, input, folder })
      const seconds = (performance.now() - begin) / 1000
      const record: StageRecord = { stage: stage.name, key, input: manifest, seconds, ...outcome }
      await writeStageRecord(dataFolder, record)
      await rm(folder, { recursive: true, force: true })
      results.push(resultOf(record, false))
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
