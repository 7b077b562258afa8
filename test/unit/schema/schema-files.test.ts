// The schema's checks: what they let pass, and what they name.
import { readFile } from 'node:fs/promises'
import { parse } from 'graphql'
import { expect, test } from 'vitest'
import { subgraphs } from '../../../gateway/subgraphs.js'
import { nodeTypes } from '../../../lib/ids.js'
import { projectFile } from '../../../lib/project.js'
import { missingDescriptions, schemaFiles } from '../../../schema/schema-files.js'
import type { Subgraph } from '../../../subgraphs/build/subgraph.js'

const files = schemaFiles()

test('the subgraphs compose, and everything in the schema is described', () => {
  expect(files.problems).toEqual([])
})

test('the committed schema is what the classes say', async () => {
  for (const [name, text] of files.subgraphs)
    expect(await readFile(projectFile('schema', name), 'utf8'), `${name}: npm run schema`).toBe(text)
  expect(await readFile(projectFile('schema', 'supergraph.graphql'), 'utf8'), 'npm run schema').toBe(files.supergraph)
})

test('every type that implements Node is found by node(id), and every job type has at most one owner', () => {
  const implementing = new Set(
    [...files.subgraphs].flatMap(([name, sdl]) =>
      name === 'node.graphql' ? [] : [...sdl.matchAll(/^type (\w+) implements Node/gm)].map(m => m[1]),
    ),
  )
  const found = [...(files.subgraphs.get('node.graphql') ?? '').matchAll(/^type (\w+) implements Node/gm)].map(
    m => m[1],
  )
  expect(new Set(found)).toEqual(implementing)
  for (const type of implementing) expect(nodeTypes).toContain(type)
  const owned = subgraphs.flatMap(s => Object.keys(s.effects))
  expect(new Set(owned).size).toBe(owned.length)
})

const fake = (name: string, sdl: string): Subgraph => ({
  name,
  sdl: `extend schema @link(url: "https://specs.apollo.dev/federation/v2.12", import: ["@key", "@shareable"])\n${sdl}`,
  schema: undefined as never,
  effects: {},
})

test('two subgraphs that disagree about a field do not compose', () => {
  const { supergraph, problems } = schemaFiles([
    fake('a', 'type Query { x: X } type X @shareable { a: Int! }'),
    fake('b', 'type Query { y: X } type X @shareable { a: String! }'),
  ])
  expect(supergraph).toBeUndefined()
  expect(problems.join()).toContain('"X.a" is incompatible')
})

test('two descriptions of one thing are a problem', () => {
  const { problems } = schemaFiles([
    fake('a', '"A" type X @shareable { "a" a: Int! } type Query { "x" x: X }'),
    fake('b', '"B" type X @shareable { "a" a: Int! } type Query { "y" y: X }'),
  ])
  expect(problems).toEqual([expect.stringMatching(/^INCONSISTENT_DESCRIPTION: Element "X"/)])
})

test('types, fields, arguments, inputs and enum values without a description are named', () => {
  const sdl = 'type Query { a(b: E): T } type T { t: Int } enum E { V } input I { i: Int } scalar S'
  expect(parse(sdl)).toBeTruthy()
  expect(missingDescriptions(sdl).sort()).toEqual(
    ['E', 'E.V', 'I', 'I.i', 'Query.a', 'Query.a(b:)', 'S', 'T', 'T.t'].sort(),
  )
})
