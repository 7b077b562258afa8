// fuseLayers and unfuseModel: what is queued, what comes of it, the way back, and what is refused.
import { afterEach, beforeEach, expect, test } from 'vitest'
import { ModelAtom, ModelEvent } from '../../../../db/entities/index.js'
import { deleteModel } from '../../../../db/models.js'
import { defaultTenantId } from '../../../../db/scope.js'
import { parseGlobalId, toGlobalId } from '../../../../lib/ids.js'
import { subgraph } from '../../../../subgraphs/models/subgraph.js'
import {
  addModel,
  addProbeDataset,
  jobOf,
  makeManifest,
  openSubgraphPlatform,
  run,
  type SubgraphPlatform,
  succeed,
} from '../../../testkit/subgraph-platform.js'

let kit: SubgraphPlatform
let row: ModelAtom
let modelId: string
beforeEach(async () => {
  kit = await openSubgraphPlatform(subgraph)
  await addProbeDataset(kit.platform)
  row = await addModel(kit.platform, 'one')
  modelId = toGlobalId('Model', row.id)
})
afterEach(() => kit.close())

const errors = 'userErrors { field message code }'
const fuse = async (input: object) =>
  (
    await run(
      subgraph.schema,
      kit.context(),
      `mutation ($input: FuseLayersInput!) { fuseLayers(input: $input) { job { id } ${errors} } }`,
      { input },
    )
  ).fuseLayers
const unfuse = async (id: string) =>
  (
    await run(
      subgraph.schema,
      kit.context(),
      `mutation ($input: UnfuseModelInput!) { unfuseModel(input: $input) { model { id name manifestHash } ${errors} } }`,
      { input: { modelId: id } },
    )
  ).unfuseModel

const timed = { fusion: 'QKV', mode: 'STEP', sites: 3, speedup: 1.1, lower: 1.0, upper: 1.2, milliseconds: 2 } as const

test('a fused model is a student whose way back is the model before, kept or deleted meanwhile', async () => {
  const { job, userErrors } = await fuse({ modelId, threshold: 1.05, only: ['QKV'] })
  expect(userErrors).toEqual([])
  const jobId = parseGlobalId(job.id)!.id
  const { input, lane } = await jobOf(kit.platform, 'model.fuse', jobId)
  expect(lane).toBe('device')
  expect(input).toMatchObject({
    manifest: row.manifestHash,
    options: { threshold: 1.05, together: false, only: ['QKV'], tolerance: 1e-4, rounds: 9 },
  })
  const made = makeManifest({ fusions: ['QKV'], fusedFrom: row.manifestHash })
  const { hash } = await kit.platform.payloads.put([Buffer.from(JSON.stringify(made))])
  await succeed(kit, 'model.fuse', jobId, {
    manifest: hash,
    source: row.manifestHash,
    applied: ['QKV'],
    rows: [{ ...timed, state: 'APPLIED' }],
    check: { positions: 10, largestDeviation: 1e-6, agreement: 1 },
    seconds: 1,
  })
  const fused = await kit.platform.db.read.findOneByOrFail(ModelAtom, { manifestHash: hash })
  expect(fused).toMatchObject({ name: 'one fused', isStudent: true, parentModelId: row.id })
  const fusedId = toGlobalId('Model', fused.id)
  expect((await unfuse(fusedId)).model).toMatchObject({ id: modelId })

  await kit.platform.db.tx(em => deleteModel(em, defaultTenantId, row.id))
  const { model } = await unfuse(fusedId)
  expect(model).toMatchObject({ name: 'one fused unfused', manifestHash: row.manifestHash })
  expect(model.id).not.toBe(modelId)
  expect((await unfuse(fusedId)).model.id).toBe(model.id)
})

test('where nothing is worth it no model is made, and the history says the factors', async () => {
  const { job } = await fuse({ modelId })
  const jobId = parseGlobalId(job.id)!.id
  await succeed(kit, 'model.fuse', jobId, {
    manifest: row.manifestHash,
    source: row.manifestHash,
    applied: [],
    rows: [{ ...timed, state: 'BELOW_THRESHOLD' }],
    seconds: 1,
  })
  expect(await kit.platform.db.read.countBy(ModelAtom, {})).toBe(1)
  const event = await kit.platform.db.read.findOneByOrFail(ModelEvent, { modelId: row.id, kind: 'FUSED' })
  expect(event.description).toBe('Fusions timed, none applied: none reached the threshold (best: QKV 1.10 in decoding)')
})

test('what cannot be is refused with its reason', async () => {
  for (const [given, field] of [
    [{ threshold: -1 }, 'threshold'],
    [{ tolerance: 0 }, 'tolerance'],
    [{ rounds: 1 }, 'rounds'],
    [{ only: [] }, 'only'],
  ] as const)
    expect((await fuse({ modelId, ...given })).userErrors[0]).toMatchObject({
      code: 'BAD_USER_INPUT',
      field: ['input', field],
    })
  expect((await unfuse(modelId)).userErrors[0]).toMatchObject({
    code: 'CONFLICT',
    message: 'Model "one" was not fused: there is nothing to undo',
  })
  const gone = await addModel(kit.platform, 'gone', makeManifest({ fusions: ['QKV'], fusedFrom: 'cd'.repeat(32) }))
  expect((await unfuse(toGlobalId('Model', gone.id))).userErrors[0]).toMatchObject({
    code: 'CONFLICT',
    message: expect.stringContaining('is gone'),
  })
  const unknown = toGlobalId('Model', '00000000-0000-4000-8000-0000000000ff')
  expect((await fuse({ modelId: unknown })).userErrors[0].code).toBe('NOT_FOUND')
})
