// The healing of a recipe as people ask for it -> the parameters of the build's stage.
import type { EntityManager } from 'typeorm'
import { aliveModel } from '../../db/models.js'
import { DomainError } from '../../lib/errors.js'
import { type Healing, healingSchema } from '../../lib/healing.js'
import { fromGlobalId } from '../../lib/ids.js'
import { checkCapabilities, chooseProbeDataset, samplesByCapability } from '../build/probe-dataset.js'
import type { HealingInput } from './healing.inputs.js'

export type HealingWish = HealingInput & { required?: boolean }

/**
 * An adapter is made of low-rank changes: where others are trained there would be none to keep.
 * @throws INVALID_RECIPE
 */
function checkAdapter({ train, lora }: HealingWish) {
  if (!lora?.keepAdapter || train === 'LORA') return
  throw new DomainError(
    'INVALID_RECIPE',
    `healing.lora.keepAdapter: needs train LORA (--keep-adapter needs --train lora), and train is ${train ?? 'ALL'}`,
    { field: ['input', 'healing', 'lora', 'keepAdapter'] },
  )
}

/**
 * The parameters of the stage, ids resolved.
 * @throws INVALID_RECIPE naming the field, NOT_FOUND (probe set, teacher, capability), INVALID_PROBE_DATASET
 */
export async function readHealing(
  em: EntityManager,
  tenantId: string,
  input: HealingWish,
  capability: string | null | undefined,
): Promise<Healing> {
  checkAdapter(input)
  const { probeDatasetId, teacherId, capabilities, lora, ...rest } = input
  const probeSet = await chooseProbeDataset(em, tenantId, probeDatasetId)
  const samples = await samplesByCapability(em, tenantId, probeSet.id)
  const usable = [...samples].flatMap(([slug, { probe, validation }]) => (probe > 0 && validation > 0 ? [slug] : []))
  if (usable.length === 0)
    throw new DomainError(
      'INVALID_PROBE_DATASET',
      `Probe set "${probeSet.name}" has no capability with both texts to train on and texts to hold out`,
      { field: ['input', 'probeDatasetId'] },
    )
  const wanted = checkCapabilities(
    capabilities ?? (capability == null ? null : [capability]),
    usable,
    `probe set "${probeSet.name}" has no texts to train on and to hold out of`,
  )
  const teacherField = ['input', 'teacherId']
  const teacher =
    teacherId == null
      ? undefined
      : await aliveModel(em, tenantId, fromGlobalId('Model', teacherId, teacherField), teacherField)
  const given = <T extends object>(values: T) =>
    Object.fromEntries(Object.entries(values).filter(([, value]) => value !== null && value !== undefined))
  const parsed = healingSchema.safeParse({
    ...given(rest),
    data: probeSet.probeSetHash,
    ...(wanted ? { capabilities: wanted } : {}),
    ...(teacher ? { teacher: teacher.manifestHash } : {}),
    ...(lora ? { lora: given(lora) } : {}),
  })
  const issue = parsed.error?.issues[0]
  if (issue) {
    const path = issue.path.map(String)
    throw new DomainError('INVALID_RECIPE', `healing.${path.join('.')}: ${issue.message}`, {
      field: ['input', 'healing', ...path],
    })
  }
  return parsed.data!
}
