// Fails where the committed schema is not what the classes say, does not compose, or has something without a description.
import { readFile } from 'node:fs/promises'
import { projectFile } from '../lib/project.js'
import { schemaFiles } from './schema-files.js'

const { subgraphs, supergraph, problems } = schemaFiles()
const found = [...problems]
const expected = new Map(subgraphs)
if (supergraph) expected.set('supergraph.graphql', supergraph)
for (const [name, text] of expected) {
  const committed = await readFile(projectFile('schema', name), 'utf8').catch(() => undefined)
  if (committed !== text)
    found.push(`schema/${name} ${committed === undefined ? 'is missing' : 'differs from the classes'}: npm run schema`)
}
for (const problem of found) process.stderr.write(`schema: ${problem}\n`)
if (found.length > 0) process.exitCode = 1
