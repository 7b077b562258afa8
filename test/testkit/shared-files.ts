// Reference numbers and real models lie beside the project, not in it; tests that use them skip where they are absent.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { projectFile } from '../../lib/project.js'

/** Path below `<project root>/../shared`. */
export const sharedFile = (...parts: string[]) => join(projectFile('..', 'shared'), ...parts)

/** Whether what these tests need lies there; says on the console what is skipped where it does not. */
export function sharedPresent(tests: string, ...parts: string[]): boolean {
  const path = sharedFile(...parts)
  const present = existsSync(path)
  if (!present) console.warn(`${tests}: skipped, ${path} is not there`)
  return present
}
