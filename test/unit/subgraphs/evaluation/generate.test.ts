// Text from a real model in a real worker: at once, piece by piece, given up, refused.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type ExecutionResult, parse, subscribe } from 'graphql'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Job, ModelAtom } from '../../../../db/entities/index.js'
import { defaultTenantId } from '../../../../db/scope.js'
import { newId, parseGlobalId, toGlobalId } from '../../../../lib/ids.js'
import { enqueue } from '../../../../subgraphs/build/enqueue.js'
import type { RequestContext } from '../../../../subgraphs/build/platform.js'
import { subgraph } from '../../../../subgraphs/evaluation/subgraph.js'
import { subgraph as models } from '../../../../subgraphs/models/subgraph.js'
import { writePicoLlama } from '../../../testkit/pico-llama.js'
import {
  type Answer,
  addModel,
  makeManifest,
  openSubgraphPlatform,
  run,
  type SubgraphPlatform,
} from '../../../testkit/subgraph-platform.js'

let p: SubgraphPlatform
let folder: string
let modelId: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'pico-'))
  // A long context, so that a generation can be left in its middle.
  await writePicoLlama(folder, { context: 16_384 })
  p = await openSubgraphPlatform(subgraph, models)
  await p.platform.queue.start()
  const { job } = (
    await run(
      models.schema,
      p.context(),
      'mutation($input: IngestModelInput!) { ingestModel(input: $input) { job { id } } }',
      {
        input: { source: folder, name: 'pico' },
      },
    )
  ).ingestModel
  await until(parseGlobalId(job.id)!.id, 'SUCCEEDED')
  modelId = toGlobalId('Model', (await p.platform.db.read.findOneByOrFail(ModelAtom, { name: 'pico' })).id)
})
afterAll(async () => {
  await p?.close()
  await rm(folder, { recursive: true, force: true })
})

async function until(jobId: string, state: string) {
  for (let i = 0; i < 3000; i++) {
    const job = await p.store.get(jobId)
    if (job?.state === state) return job
    if (job?.state === 'FAILED') throw new Error(job.error?.message)
    await new Promise(r => setTimeout(r, 10))
  }
  throw new Error(`job ${jobId} is not ${state}`)
}
const newest = () => p.platform.db.read.findOneOrFail(Job, { where: { type: 'model.generate' }, order: { id: 'DESC' } })
const generate = async (input: Record<string, unknown>, context: RequestContext = p.context()): Promise<Answer> =>
  (
    await run(
      subgraph.schema,
      context,
      'mutation($input: GenerateInput!) { generate(input: $input) { text finishReason usage { promptTokens completionTokens tokensPerSecond } job { id } userErrors { field message code } } }',
      { input: { modelId, prompt: 'ab', ...input } },
    )
  ).generate
const eventFields =
  'job { id } textDelta offset tokenIds tokens { token logProbability alternatives { token } } token index finishReason usage { completionTokens reusedPromptTokens }'
const open = (input: Record<string, unknown>) =>
  subscribed(`subscription($input: GenerateInput!) { generateStream(input: $input) { ${eventFields} } }`, {
    input: { modelId, prompt: 'ab', ...input },
  })
const watch = (jobId: string, from: Record<string, unknown> = {}) =>
  subscribed(
    `subscription($jobId: ID!, $afterIndex: Int, $afterOffset: Int! = 0) { watchGeneration(jobId: $jobId, afterIndex: $afterIndex, afterOffset: $afterOffset) { ${eventFields} } }`,
    { jobId, ...from },
  )
async function subscribed(document: string, variableValues: Record<string, unknown>) {
  const stream = await subscribe({
    schema: subgraph.schema,
    document: parse(document),
    contextValue: p.context(),
    variableValues,
  })
  if (!(Symbol.asyncIterator in stream)) throw stream.errors?.[0]?.originalError ?? new Error('refused')
  return stream as AsyncGenerator<ExecutionResult<Answer>>
}

test('generates to the limit, the same every time without temperature', async () => {
  const first = await generate({ maxTokens: 12, userId: 'someone' })
  expect(first).toMatchObject({ finishReason: 'LENGTH', usage: { completionTokens: 12 }, userErrors: [] })
  expect(first.usage.promptTokens).toBeGreaterThan(0)
  expect(parseGlobalId(first.job.id)?.type).toBe('Job')
  expect((await newest()).context).toEqual({ userId: 'someone' })
  expect((await generate({ maxTokens: 12 })).text).toBe(first.text)
})

test('every piece arrives in order, then the reason and the cost, then the stream ends', async () => {
  const whole = await generate({ maxTokens: 30 })
  const events: Answer[] = []
  for await (const { data, errors } of await open({ maxTokens: 30 })) {
    expect(errors).toBeUndefined()
    events.push(data.generateStream)
  }
  const last = events.pop()
  expect(last).toMatchObject({
    textDelta: '',
    token: null,
    index: 30,
    finishReason: 'LENGTH',
    usage: { completionTokens: 30 },
  })
  expect(events.map(e => e.textDelta).join('')).toBe(whole.text)
  expect(events.every(e => e.finishReason === null && e.usage === null && Number.isInteger(e.token))).toBe(true)
  expect(events.map(e => e.index)).toEqual([...events.map(e => e.index)].sort((a, b) => a - b))
})

/** All events of a stream to its end. */
async function collect(stream: AsyncGenerator<ExecutionResult<Answer>>): Promise<Answer[]> {
  const events: Answer[] = []
  for await (const { data, errors } of stream) {
    expect(errors).toBeUndefined()
    events.push(data.generateStream ?? data.watchGeneration)
  }
  return events
}
const joined = (events: Answer[]) => ({
  text: events.map(e => e.textDelta).join(''),
  tokenIds: events.flatMap(e => e.tokenIds),
})

test('any number watch one generation, from its beginning or from where they were, while it runs and after', async () => {
  const input = { maxTokens: 3000, idempotencyKey: 'watched' }
  const first = await open(input)
  const begun: Answer[] = []
  for (let i = 0; i < 5; i++) begun.push((await first.next()).value.data.generateStream)
  const jobId = begun[0].job.id
  const { index, offset, textDelta } = begun[4]
  const from = { afterIndex: index, afterOffset: offset + textDelta.length }
  // By id, by key, and by id from the fifth piece on.
  const [byId, byKey, rest] = await Promise.all(
    [watch(jobId), open(input), watch(jobId, from)].map(async s => collect(await s)),
  )
  const whole = joined([...begun, ...(await collect(first))])
  expect(whole.tokenIds).toHaveLength(3000)
  expect((await p.store.get(parseGlobalId(jobId)!.id))?.output).toMatchObject(whole)
  expect(joined(byId!)).toEqual(whole)
  expect(joined(byKey!)).toEqual(whole)
  const before = joined(begun)
  expect(before.text + joined(rest!).text).toBe(whole.text)
  expect([...before.tokenIds, ...joined(rest!).tokenIds]).toEqual(whole.tokenIds)
  // It has ended: all comes at once, or what is left.
  expect(joined(await collect(await watch(jobId)))).toEqual(whole)
  expect(joined(await collect(await watch(jobId, from)))).toEqual(joined(rest!))
  expect(await generate(input)).toMatchObject({ text: whole.text, job: { id: jobId } })
  for (const events of [byId!, byKey!, rest!]) {
    let at = events[0].offset
    for (const event of events) {
      expect(event.offset).toBe(at)
      at += event.textDelta.length
    }
  }
}, 30_000)

test('a key that was used for another input is refused, an unknown generation too', async () => {
  await generate({ maxTokens: 2, idempotencyKey: 'once' })
  expect(await generate({ maxTokens: 3, idempotencyKey: 'once' })).toMatchObject({
    userErrors: [{ code: 'IDEMPOTENCY_CONFLICT' }],
  })
  await expect(watch(toGlobalId('Job', newId()))).rejects.toMatchObject({ code: 'NOT_FOUND' })
  const ingest = await p.platform.db.read.findOneByOrFail(Job, { type: 'model.ingest' })
  await expect(watch(toGlobalId('Job', ingest.id))).rejects.toMatchObject({ code: 'NOT_FOUND' })
  await expect(watch(toGlobalId('Job', ingest.id), { afterOffset: -1 })).rejects.toMatchObject({
    code: 'BAD_USER_INPUT',
  })
})

test('the job is cancelled when the last reader leaves, not before', async () => {
  const first = await open({ maxTokens: 16_000 })
  const jobId = (await first.next()).value.data.generateStream.job.id
  const second = await watch(jobId)
  await second.next()
  await first.return(undefined)
  const seen = (await second.next()).value.data.watchGeneration.index
  expect((await second.next()).value.data.watchGeneration.index).toBeGreaterThan(seen)
  await second.return(undefined)
  await until(parseGlobalId(jobId)!.id, 'CANCELLED')
  await expect((await watch(jobId)).next()).rejects.toMatchObject({ code: 'CANCELLED' })
})

test('log-probabilities come on request, whole and piece by piece, for every token', async () => {
  const input = { maxTokens: 12, logProbabilities: 3, temperature: 1, seed: 5, minP: 0.01, repetitionPenalty: 1.1 }
  const document = `mutation($input: GenerateInput!) { generate(input: $input) { text tokens { token text logProbability alternatives { token text logProbability } } } }`
  const { tokens } = (await run(subgraph.schema, p.context(), document, { input: { modelId, prompt: 'ab', ...input } }))
    .generate
  expect(tokens).toHaveLength(12)
  for (const { logProbability, alternatives } of tokens) {
    const listed = alternatives.map((a: Answer) => a.logProbability)
    expect(listed).toHaveLength(3)
    expect(listed).toEqual([...listed].sort((a, b) => b - a))
    expect(listed.reduce((sum: number, l: number) => sum + Math.exp(l), 0)).toBeLessThanOrEqual(1)
    expect(logProbability).toBeLessThanOrEqual(listed[0])
  }
  const streamed = (await collect(await open(input))).flatMap(e => e.tokens)
  expect(streamed.map(t => [t.token, t.logProbability])).toEqual(tokens.map((t: Answer) => [t.token, t.logProbability]))
  expect((await collect(await open({ maxTokens: 3 }))).every(e => e.tokens === null)).toBe(true)
})

test('a conversation that goes on reads only what is new', async () => {
  const messages = [{ role: 'user', content: 'tell me a rather long story' }]
  const turn = async () => (await collect(await open({ prompt: null, messages, maxTokens: 8 }))).at(-1).usage
  expect((await turn()).reusedPromptTokens).toBe(0)
  messages.push({ role: 'assistant', content: 'no' }, { role: 'user', content: 'why' })
  expect((await turn()).reusedPromptTokens).toBeGreaterThan(30)
})

test('a reader that leaves a stream cancels its job', async () => {
  const stream = await open({ maxTokens: 16_000 })
  expect((await stream.next()).value.data.generateStream.textDelta).not.toBe('')
  const { id } = await newest()
  await stream.return(undefined)
  await until(id, 'CANCELLED')
})

test('a reader that leaves while nothing has come yet cancels its job too', async () => {
  const stream = await open({ maxTokens: 16_000 })
  const pending = stream.next()
  const { id } = await newest()
  await stream.return(undefined)
  await pending
  await until(id, 'CANCELLED')
})

test('a request whose client has gone cancels its job', async () => {
  const client = new AbortController()
  const answer = generate({ maxTokens: 16_000 }, { ...p.context(), signal: client.signal })
  // A turn of the event loop, so that the job is queued.
  await new Promise(r => setTimeout(r, 50))
  const { id } = await newest()
  await until(id, 'RUNNING')
  client.abort()
  expect((await answer).userErrors).toMatchObject([{ code: 'CANCELLED' }])
  await until(id, 'CANCELLED')
})

test.each([
  ['neither prompt nor messages', { prompt: null }, 'BAD_USER_INPUT', 'prompt'],
  ['prompt and messages', { messages: [{ role: 'user', content: 'x' }] }, 'BAD_USER_INPUT', 'prompt'],
  ['no messages', { prompt: null, messages: [] }, 'BAD_USER_INPUT', 'messages'],
  ['no tokens', { maxTokens: 0 }, 'BAD_USER_INPUT', 'maxTokens'],
  ['a negative temperature', { temperature: -1 }, 'BAD_USER_INPUT', 'temperature'],
  ['an impossible topP', { topP: 0 }, 'BAD_USER_INPUT', 'topP'],
  ['an impossible topK', { topK: 0 }, 'BAD_USER_INPUT', 'topK'],
  ['an impossible minP', { minP: 1.5 }, 'BAD_USER_INPUT', 'minP'],
  ['an impossible repetitionPenalty', { repetitionPenalty: 0 }, 'BAD_USER_INPUT', 'repetitionPenalty'],
  ['too many log-probabilities', { logProbabilities: 21 }, 'BAD_USER_INPUT', 'logProbabilities'],
  ['an empty stop text', { stop: ['a', ''] }, 'BAD_USER_INPUT', 'stop'],
  ['an unknown model', { modelId: toGlobalId('Model', newId()) }, 'NOT_FOUND', 'modelId'],
])('refuses %s, in a mutation and in a stream', async (_, input, code, field) => {
  const jobs = await p.platform.db.read.count(Job)
  expect(await generate(input)).toMatchObject({
    text: null,
    job: null,
    userErrors: [{ code, field: ['input', field] }],
  })
  await expect(open(input)).rejects.toMatchObject({ code })
  expect(await p.platform.db.read.count(Job)).toBe(jobs)
})

test('what the worker refuses comes as its code and sentence', async () => {
  const { userErrors, job } = await generate({ prompt: 'ab '.repeat(20_000) })
  expect(userErrors).toMatchObject([{ code: 'CONTEXT_LENGTH_EXCEEDED' }])
  expect(job).not.toBeNull()
  const stream = await open({ prompt: 'ab '.repeat(20_000) })
  await expect(stream.next()).rejects.toMatchObject({ code: 'CONTEXT_LENGTH_EXCEEDED' })
})

test('a model without a tokenizer is refused before anything is queued', async () => {
  const mute = await addModel(p.platform, 'mute', { ...makeManifest(), tokenizer: undefined })
  expect((await generate({ modelId: toGlobalId('Model', mute.id) })).userErrors).toMatchObject([
    { code: 'NO_TOKENIZER' },
  ])
})

test('a generation whose model was deleted while it waited fails by name', async () => {
  const { platform } = p
  const gone = await addModel(platform, 'gone', makeManifest({ seed: 'z' }))
  await platform.db.tx(em => em.update(ModelAtom, { id: gone.id }, { deletedAt: new Date() }))
  const job = await platform.db.tx(em =>
    enqueue(em, platform, {
      tenantId: defaultTenantId,
      type: 'model.generate',
      modelId: gone.id,
      input: { manifest: gone.manifestHash, prompt: 'x', maxTokens: 1, temperature: 0 },
    }),
  )
  await expect(until(job.id, 'SUCCEEDED')).rejects.toThrow('gone was deleted')
})
