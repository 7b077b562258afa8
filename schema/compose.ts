// Writes schema/supergraph.graphql: all subgraphs composed into the one schema that people meet.
import { writeFile } from 'node:fs/promises'
import { projectFile } from '../lib/project.js'
import { schemaFiles } from './schema-files.js'

const { supergraph, problems } = schemaFiles()
for (const problem of problems) process.stderr.write(`schema: ${problem}\n`)
if (supergraph) await writeFile(projectFile('schema', 'supergraph.graphql'), supergraph)
if (problems.length > 0) process.exitCode = 1
