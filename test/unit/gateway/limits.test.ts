// Shapes and costs: what is counted, what is refused.
import { buildSchema, getOperationAST, parse } from 'graphql'
import { describe, expect, test } from 'vitest'
import { checkCost, checkShape, operationLimits } from '../../../gateway/limits.js'
import { operationChecker } from '../../../gateway/operations.js'

const schema = buildSchema(`
  type Query { models(first: Int, last: Int, after: String): ModelConnection! model: Model }
  type ModelConnection { nodes: [Model!]! edges: [ModelEdge!]! totalCount: Int! pageInfo: PageInfo! }
  type ModelEdge { cursor: String! node: Model! }
  type PageInfo { hasNextPage: Boolean! }
  type Model { id: ID! parent: Model layers: [Layer!]! students(first: Int): ModelConnection! }
  type Layer { index: Int! model: Model! }`)

const shape = (query: string) => checkShape(parse(query))
const cost = (query: string, variables = {}) => {
  const document = parse(query)
  return checkCost(schema, document, getOperationAST(document)!, variables)
}
const refusal = (work: () => unknown) => {
  try {
    work()
  } catch (error) {
    return (error as { extensions: { code: string } }).extensions.code
  }
  return 'accepted'
}

describe('shape', () => {
  test('depth up to the limit passes, one more is refused', () => {
    const nested = (levels: number) => '{ a '.repeat(levels) + '}'.repeat(levels)
    expect(refusal(() => shape(nested(operationLimits.depth)))).toBe('accepted')
    expect(refusal(() => shape(nested(operationLimits.depth + 1)))).toBe('OPERATION_TOO_LARGE')
  })
  test('depth is counted through fragments', () => {
    const fragments = Array.from({ length: 30 }, (_, i) => `fragment F${i} on Model { parent { ...F${i + 1} } }`)
    expect(refusal(() => shape(`{ model { ...F0 } } ${fragments.join(' ')} fragment F30 on Model { id }`))).toBe(
      'OPERATION_TOO_LARGE',
    )
  })
  test('a fragment cycle is left to validation and takes no time', () => {
    const cycle = '{ model { ...A } } fragment A on Model { parent { ...B } } fragment B on Model { parent { ...A } }'
    expect(refusal(() => shape(cycle))).toBe('accepted')
  })
  test('fragments that multiply are refused in milliseconds', () => {
    const fragments = Array.from(
      { length: 18 },
      (_, i) => `fragment F${i} on Model { parent { ...F${i + 1} } students { nodes { ...F${i + 1} } } }`,
    )
    const started = performance.now()
    expect(refusal(() => shape(`{ model { ...F0 } } ${fragments.join(' ')} fragment F18 on Model { id }`))).toBe(
      'OPERATION_TOO_LARGE',
    )
    expect(performance.now() - started).toBeLessThan(200)
  })
  test('aliases are counted over all levels', () => {
    const many = Array.from({ length: 101 }, (_, i) => `a${i}: model { id }`).join(' ')
    expect(refusal(() => shape(`{ ${many} }`))).toBe('OPERATION_TOO_LARGE')
  })
  test('one field many times is refused before validation compares each pair', () => {
    const check = operationChecker(schema)
    const started = performance.now()
    expect(() => check({ query: `{ ${'model { id } '.repeat(2400)} }` })).toThrow(/more than 100 times/)
    expect(performance.now() - started).toBeLessThan(500)
  })
  test('introspection passes', () => {
    const types = '{ __schema { types { fields { type { ofType { ofType { ofType { ofType { name } } } } } } } } }'
    expect(refusal(() => shape(types))).toBe('accepted')
  })
})

describe('cost', () => {
  test.each([
    ['{ models { totalCount } }', 1],
    ['{ models(first: 10) { totalCount pageInfo { hasNextPage } nodes { id } } }', 12],
    ['{ models(first: 10) { edges { cursor node { id } } } }', 21],
    ['{ models { nodes { id } } }', 51],
    ['{ models(first: 10) { nodes { students(first: 5) { nodes { id } } } } }', 1 + 10 * (1 + 1 + 5)],
    ['{ model { layers { model { id } } } }', 1 + 30 * 2],
    [
      '{ model { ...F } } fragment F on Model { students(first: 2) { ...C } } fragment C on ModelConnection { nodes { id } }',
      4,
    ],
  ])('%s costs %i objects', (query, objects) => {
    expect(cost(query)).toBe(objects)
  })
  test('page sizes come from variables too', () => {
    expect(cost('query($n: Int) { models(first: $n) { nodes { id } } }', { n: 7 })).toBe(8)
  })
  test.each([-1, 101, 100_000])('a page of %i is refused', n => {
    expect(refusal(() => cost(`{ models(first: ${n}) { totalCount } }`))).toBe('BAD_USER_INPUT')
    expect(refusal(() => cost('query($n: Int) { models(last: $n) { totalCount } }', { n }))).toBe('BAD_USER_INPUT')
  })
  test('more objects than allowed are refused with their number', () => {
    const query =
      '{ models(first: 100) { nodes { students(first: 100) { nodes { students(first: 100) { nodes { id } } } } } } }'
    expect(refusal(() => cost(query))).toBe('OPERATION_TOO_EXPENSIVE')
    expect(() => cost(query)).toThrow('1,020,201')
  })
})

describe('any text', () => {
  test.each([
    ['a million brackets', '{'.repeat(1_000_000)],
    ['nested until the stack ends', '{ a '.repeat(4900) + '}'.repeat(4900)],
    ['nested lists', `{ models(first: ${'['.repeat(4900)}${']'.repeat(4900)}) { totalCount } }`],
    ['too many tokens', `{ ${'a '.repeat(20_000)} }`],
    ['empty', ''],
    ['no operation', 'fragment F on Model { id }'],
    ['binary', '\u0000\uffff'],
  ])('%s is refused in time, with a code', (_, query) => {
    const started = performance.now()
    let errors: unknown
    try {
      operationChecker(schema)({ query })
    } catch (thrown) {
      errors = thrown
    }
    const list = Array.isArray(errors) ? errors : [errors]
    expect(list[0].extensions.code).toMatch(
      /^(GRAPHQL_PARSE_FAILED|OPERATION_TOO_LARGE|BAD_REQUEST|GRAPHQL_VALIDATION_FAILED)$/,
    )
    expect(performance.now() - started).toBeLessThan(1000)
  })
})
