// quantizeModel: what it queues, what comes of it, and what it refuses.
import { afterEach, beforeEach, expect, test } from 'vitest'
import { ModelAtom } from '../../../../db/entities/index.js'
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
beforeEach(async () => {
  kit = await openSubgraphPlatform(subgraph)
  await addProbeDataset(kit.platform)
})
afterEach(() => kit.close())

const mutation =
  'mutation ($input: QuantizeModelInput!) { quantizeModel(input: $input) { job { id } userErrors { field message code } } }'
const ask = async (input: object) => (await run(subgraph.schema, kit.context(), mutation, { input })).quantizeModel

const comparison = {
  divergence: 0.01,
  agreement: 0.95,
  positions: 100,
  loss: 2,
  referenceLoss: 1.9,
  perplexity: 7.4,
  referencePerplexity: 6.7,
  capabilities: [],
  sizeBytes: 25,
  referenceSizeBytes: 100,
}

test('queues a job with the options’ defaults; the model that comes of it is a student with its figures', async () => {
  const row = await addModel(kit.platform, 'one')
  const { job, userErrors } = await ask({ modelId: toGlobalId('Model', row.id), type: 'INT4' })
  expect(userErrors).toEqual([])
  const jobId = parseGlobalId(job.id)!.id
  const { input, lane } = await jobOf(kit.platform, 'model.quantize', jobId)
  expect(lane).toBe('device')
  expect(input).toMatchObject({
    manifest: row.manifestHash,
    probeSet: 'ab'.repeat(32),
    samplesPerCapability: 8,
    options: { type: 'INT4', symmetric: true, blockSize: 32, method: 'CALIBRATED', head: 'INT8', requantize: false },
  })
  const made = makeManifest({ quantisedFrom: row.manifestHash })
  const { hash } = await kit.platform.payloads.put([Buffer.from(JSON.stringify(made))])
  const output = { manifest: hash, source: row.manifestHash, types: { Q4_0: 16 }, kept: [], seconds: 1, comparison }
  await succeed(kit, 'model.quantize', jobId, output)
  const student = await kit.platform.db.read.findOneByOrFail(ModelAtom, { manifestHash: hash })
  expect(student).toMatchObject({ name: 'one INT4', isStudent: true, parentModelId: row.id })
})

test('options out of range are refused by name, unknown models and probe sets by id', async () => {
  const row = await addModel(kit.platform, 'one')
  const modelId = toGlobalId('Model', row.id)
  expect((await ask({ modelId, type: 'INT4', blockSize: 48 })).userErrors).toEqual([
    { field: ['input', 'blockSize'], message: 'blockSize: 48, expected 32, 64 or 128', code: 'BAD_USER_INPUT' },
  ])
  expect((await ask({ modelId, type: 'INT4', calibrationTokens: 1 })).userErrors[0]).toMatchObject({
    field: ['input', 'calibrationTokens'],
    code: 'BAD_USER_INPUT',
  })
  const unknown = toGlobalId('Model', '00000000-0000-4000-8000-0000000000ff')
  expect((await ask({ modelId: unknown, type: 'INT4' })).userErrors[0].code).toBe('NOT_FOUND')
  const probeDatasetId = toGlobalId('ProbeDataset', '00000000-0000-4000-8000-0000000000ff')
  expect((await ask({ modelId, type: 'INT4', probeDatasetId })).userErrors[0].code).toBe('NOT_FOUND')
})
