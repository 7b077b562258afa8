// Where the project's own files lie, whether this module runs from the sources (tests) or from dist/.
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

function findRoot(from: string): string {
  if (existsSync(join(from, 'package.json'))) return from
  const parent = dirname(from)
  if (parent === from) throw new Error('package.json not found above lib/project')
  return findRoot(parent)
}

/** Folder that holds package.json. */
export const projectRoot = findRoot(dirname(fileURLToPath(import.meta.url)))

/** Path of a file of the project, e.g. `projectFile('schema', 'supergraph.graphql')`. */
export const projectFile = (...parts: string[]) => join(projectRoot, ...parts)

/** Path of a compiled entry, e.g. `compiledFile('compute/worker.js')`: child processes always run compiled code. */
export const compiledFile = (path: string) => join(projectRoot, 'dist', path)
