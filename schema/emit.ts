// Writes schema/<subgraph>.graphql for every subgraph, as built from its classes.
import { mkdir, writeFile } from 'node:fs/promises'
import { projectFile } from '../lib/project.js'
import { schemaFiles } from './schema-files.js'

const files = schemaFiles()
await mkdir(projectFile('schema'), { recursive: true })
for (const [name, text] of files.subgraphs) await writeFile(projectFile('schema', name), text)
process.stderr.write(`schema: ${files.subgraphs.size} subgraphs\n`)
