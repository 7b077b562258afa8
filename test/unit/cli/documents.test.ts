// The operations that the CLI and the demo send are valid against the committed supergraph.
import { readFileSync } from 'node:fs'
import { Supergraph } from '@apollo/federation-internals'
import { parse, validate } from 'graphql'
import { expect, test } from 'vitest'
import { documents } from '../../../cli/documents.js'
import { demoDocuments } from '../../../demo/documents.js'
import { jobProgressDocument } from '../../../lib/client/watch-job.js'
import { projectFile } from '../../../lib/project.js'

const supergraph = Supergraph.build(readFileSync(projectFile('schema', 'supergraph.graphql'), 'utf8'))
const schema = supergraph.apiSchema().toGraphQLJSSchema()

const all: Record<string, string> = { jobProgress: jobProgressDocument }
for (const [name, text] of Object.entries(documents)) all[`cli ${name}`] = text
for (const [name, text] of Object.entries(demoDocuments)) all[`demo ${name}`] = text

test.each(Object.entries(all))('%s is valid', (_name, text) => {
  expect(validate(schema, parse(text)).map(e => e.message)).toEqual([])
})
