// Queries, mutations and subscriptions over two subgraphs in the process: the mechanics, on a fixture.
import { pino } from 'pino'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Answer, type GraphqlGateway, startGraphqlGateway } from '../../../gateway/graphql-gateway.js'
import { localDataSource } from '../../../gateway/local-data-source.js'
import { type FixtureContext, twoSubgraphs } from './two-subgraphs.js'

const log = pino({ level: 'silent' })
const fixture = twoSubgraphs()
let gateway: GraphqlGateway<FixtureContext>

beforeAll(async () => {
  const sources = new Map(
    [...fixture.schemas].map(([name, schema]) => [name, localDataSource<FixtureContext>(schema, log)]),
  )
  gateway = await startGraphqlGateway({ supergraphSdl: fixture.supergraphSdl, sources, log })
})
afterAll(() => gateway.stop())

async function answer(query: string, variables?: Record<string, unknown>): Promise<Answer> {
  const outcome = await gateway.operate({ query, variables }, fixture.newContext)
  if (outcome.kind === 'stream') throw new Error('a stream')
  return outcome.kind === 'refused' ? { errors: outcome.errors } : outcome.answer
}

async function stream(query: string, variables?: Record<string, unknown>) {
  const outcome = await gateway.operate({ query, variables }, fixture.newContext)
  if (outcome.kind !== 'stream') throw new Error(JSON.stringify(outcome))
  return outcome.stream
}

const code = ({ errors }: Answer) => errors?.[0]?.extensions?.code

describe('queries', () => {
  test('one query reads from both subgraphs', async () => {
    expect(await answer('{ job(id: "7") { completed model { name } } }')).toEqual({
      data: { job: { completed: 3, model: { name: 'model 7' } } },
    })
  })
  test('a bug shows an id and nothing of the inside', async () => {
    const { errors, data } = await answer('{ broken job(id: "1") { completed } }')
    expect(data).toEqual({ broken: null, job: { completed: 3 } })
    expect(JSON.stringify(errors)).not.toMatch(/secret|stack|TypeError|serviceName/)
    expect(errors?.[0]).toMatchObject({
      path: ['broken'],
      extensions: { code: 'INTERNAL_SERVER_ERROR', errorId: expect.stringMatching(/^[0-9a-f-]{36}$/) },
    })
  })
  test('an expected failure keeps its code, message and field', async () => {
    expect((await answer('{ missing { id } }')).errors).toEqual([
      { message: 'No Job has the id "x"', path: ['missing'], extensions: { code: 'NOT_FOUND', field: ['id'] } },
    ])
  })
  test.each([
    ['{ models { ', 'GRAPHQL_PARSE_FAILED'],
    ['{ nope }', 'GRAPHQL_VALIDATION_FAILED'],
    ['{ job { id } }', 'GRAPHQL_VALIDATION_FAILED'],
    ['query A { __typename } query B { __typename }', 'BAD_REQUEST'],
    ['query($id: ID!) { job(id: $id) { id } }', 'BAD_USER_INPUT'],
    ['subscription { jobProgress(id: "1") { id } breaks { id } }', 'GRAPHQL_VALIDATION_FAILED'],
  ])('%s is refused as %s', async (query, expected) => {
    expect(code(await answer(query))).toBe(expected)
  })
  test('all validation errors are told at once', async () => {
    expect((await answer('{ nope neither }')).errors).toHaveLength(2)
  })
})

describe('subscriptions', () => {
  test('an event has fields of both subgraphs', async () => {
    const events = await stream(
      'subscription($id: ID!) { p: jobProgress(id: $id) { completed model { name students { nodes { name } } } } }',
      { id: '7' },
    )
    expect((await events.next()).value).toEqual({
      data: {
        p: {
          completed: 0,
          model: { name: 'model 7', students: { nodes: [{ name: 'model 1' }, { name: 'model 2' }] } },
        },
      },
    })
    fixture.publish(5)
    expect((await events.next()).value.data.p.completed).toBe(5)
    fixture.finish()
    expect((await events.next()).done).toBe(true)
  })
  test('each event has a context of its own in every subgraph', async () => {
    const events = await stream('subscription { jobProgress(id: "7") { visits model { visits } } }')
    fixture.publish(1)
    const two = [await events.next(), await events.next()].map(e => e.value.data.jobProgress)
    expect(two).toEqual([
      { visits: 1, model: { visits: 1 } },
      { visits: 1, model: { visits: 1 } },
    ])
    await events.return?.()
  })
  test('readers of one operation share an event’s result; other variables and larger events get their own', async () => {
    const document = 'subscription($id: ID!, $few: Boolean!) { jobProgress(id: $id) { completed id @skip(if: $few) } }'
    const [first, second, other] = [
      await stream(document, { id: '7', few: true }),
      await stream(document, { id: '7', few: true }),
      await stream(document, { id: '7', few: false }),
    ]
    const results = [await first.next(), await second.next(), await other.next()].map(({ value }) => value)
    expect(results[0]).toEqual({ data: { jobProgress: { completed: 0 } } })
    expect(results[1].data).toBe(results[0].data)
    expect(results[2]).toEqual({ data: { jobProgress: { completed: 0, id: '7' } } })
    for (const reader of [first, second, other]) await reader.return?.()
    // Nobody is left who would share it.
    const later = await stream(document, { id: '7', few: true })
    const again = (await later.next()).value
    expect(again).toEqual(results[0])
    expect(again.data).not.toBe(results[0].data)
    await later.return?.()

    const large = 'subscription { jobProgress(id: "7") { blob } }'
    const readers = [await stream(large), await stream(large)]
    const [a, b] = [(await readers[0]!.next()).value, (await readers[1]!.next()).value]
    expect(a).toEqual(b)
    expect(a.data).not.toBe(b.data)
    for (const reader of readers) await reader.return?.()
  })
  test('the upstream closes when the client leaves, also while it waits for an event', async () => {
    const events = await stream('subscription { jobProgress(id: "7") { id } }')
    await events.next()
    expect(fixture.open()).toBe(1)
    const waiting = events.next()
    await events.return?.()
    expect(fixture.open()).toBe(0)
    expect((await waiting).done).toBe(true)
  })
  test('an event that cannot be completed carries an error and the stream goes on', async () => {
    const events = await stream('subscription { jobProgress(id: "gone") { completed model { name } } }')
    const first = (await events.next()).value
    expect(first.data).toEqual({ jobProgress: { completed: 0, model: { name: null } } })
    expect(code(first)).toBe('INTERNAL_SERVER_ERROR')
    expect(JSON.stringify(first)).not.toContain('secret')
    fixture.publish(9)
    expect((await events.next()).value.data.jobProgress).toEqual({ completed: 9, model: { name: 'model 7' } })
    await events.return?.()
  })
  test('an entity that is absent stays null', async () => {
    const events = await stream('subscription { jobProgress(id: "none") { completed model { name } } }')
    expect((await events.next()).value).toEqual({ data: { jobProgress: { completed: 0, model: null } } })
    await events.return?.()
  })
  test('a source that breaks says so last, without its inside', async () => {
    const events = await stream('subscription { breaks { completed } }')
    const seen: Answer[] = []
    for await (const e of events) seen.push(e)
    expect(seen[0]).toEqual({ data: { breaks: { completed: 1 } } })
    expect(code(seen[1]!)).toBe('INTERNAL_SERVER_ERROR')
    expect(seen).toHaveLength(2)
    expect(JSON.stringify(seen)).not.toContain('secret')
  })
  test('a subscription that the subgraph refuses is an answer with its code', async () => {
    expect(code(await answer('subscription { jobProgress(id: "x") { id } }'))).toBe('NOT_FOUND')
  })
  test('a condition on the root field is refused, not a crash', async () => {
    const query = 'subscription($b: Boolean!) { jobProgress(id: "1") @include(if: $b) { id } }'
    expect(code(await answer(query, { b: true }))).toBe('GRAPHQL_VALIDATION_FAILED')
  })
  test('conditions within the event work', async () => {
    const query =
      'subscription($b: Boolean!) { jobProgress(id: "1") { id completed @include(if: $b) model @skip(if: $b) { name } } }'
    for (const [b, expected] of [
      [true, { id: '1', completed: 0 }],
      [false, { id: '1', model: { name: 'model 1' } }],
    ] as const) {
      const events = await stream(query, { b })
      expect((await events.next()).value).toEqual({ data: { jobProgress: expected } })
      await events.return?.()
    }
  })
})
