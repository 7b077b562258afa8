// Building federated schemas from type-graphql classes.
import { execute, parse } from 'graphql'
import { Args, Directive, Field, ID, ObjectType, Query, Resolver } from 'type-graphql'
import { expect, test } from 'vitest'
import { Node } from '../../../../subgraphs/build/common-types.js'
import { ConnectionArguments, connectionOf, type Page, paginateArray } from '../../../../subgraphs/build/connection.js'
import { BigIntScalar, buildFederatedSchema } from '../../../../subgraphs/build/schema.js'

@Directive('@key(fields: "id")')
@ObjectType('Fruit', { implements: Node, description: 'A fruit.' })
class Fruit extends Node {
  @Field(() => BigIntScalar, { description: 'Seeds.' }) seeds!: number | bigint
}
const FruitConnection = connectionOf('Fruit', () => Fruit)

@ObjectType('Stone', { implements: Node, description: 'Of another subgraph: must not appear.' })
class Stone extends Node {}

const fruits = Array.from({ length: 5 }, (_, i) =>
  Object.assign(new Fruit(), { id: `f${i}`, seeds: 2n ** BigInt(51 + i) }),
)

@Resolver(() => Fruit)
class FruitResolver {
  @Query(() => FruitConnection, { description: 'All fruits.' })
  fruits(@Args(() => ConnectionArguments) args: ConnectionArguments): Page<Fruit> {
    return paginateArray(fruits, args, 'fruits', f => f.id)
  }
}
@ObjectType('Other', { description: 'x' })
class Other {
  @Field(() => ID, { description: 'x' }) id!: string
}

const built = buildFederatedSchema(
  { resolvers: [FruitResolver], orphanedTypes: [] },
  { Fruit: ({ id }) => fruits.find(f => f.id === id) ?? null },
)
const run = (source: string) => execute({ schema: built.schema, document: parse(source), contextValue: {} })

test('only classes of the subgraph are in its SDL, although others are registered in the process', () => {
  expect(Stone && Other).toBeTruthy()
  expect(built.sdl).toContain('type Fruit implements Node')
  expect(built.sdl).not.toContain('Stone')
  expect(built.sdl).toMatch(/type FruitConnection @shareable/)
})

test('a page has edges, nodes, cursors and a total; big integers become text above 2^53', async () => {
  const { data, errors } = await run(
    '{ fruits(first: 3) { nodes { id seeds } edges { cursor node { id } } totalCount pageInfo { hasNextPage hasPreviousPage endCursor } } }',
  )
  expect(errors).toBeUndefined()
  const page = data?.fruits as {
    nodes: { seeds: unknown }[]
    edges: { cursor: string }[]
    totalCount: number
    pageInfo: object
  }
  expect(page.nodes.map(n => n.seeds)).toEqual([2 ** 51, 2 ** 52, '9007199254740992'])
  expect(page.totalCount).toBe(5)
  expect(page.pageInfo).toEqual({ hasNextPage: true, hasPreviousPage: false, endCursor: page.edges[2]?.cursor })
})

test('entities are resolved by their key', async () => {
  const { data } = await run(
    '{ _entities(representations: [{ __typename: "Fruit", id: "f2" }, { __typename: "Fruit", id: "no" }]) { ... on Fruit { id } } }',
  )
  expect(data?._entities).toEqual([{ id: 'f2' }, null])
})

test('a refused argument is an error with its code and field', async () => {
  for (const [args, code, field] of [
    ['first: 101', 'BAD_USER_INPUT', 'first'],
    ['last: -1', 'BAD_USER_INPUT', 'last'],
    ['first: 1, last: 1', 'BAD_USER_INPUT', 'last'],
    ['after: "nonsense"', 'INVALID_CURSOR', 'after'],
    ['before: "WyJmcnVpdHMiXQ"', 'INVALID_CURSOR', 'before'],
  ] as const) {
    const { errors } = await run(`{ fruits(${args}) { totalCount } }`)
    expect(errors?.[0]?.extensions).toEqual({ code, field: [field] })
  }
})
