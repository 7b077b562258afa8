// Reference numbers and real models lie beside the project, not in it; tests that use them skip where they are absent.
import { join } from 'node:path'
import { projectFile } from '../../lib/project.js'

/** Path below `<project root>/../shared`. */
export const sharedFile = (...parts: string[]) => join(projectFile('..', 'shared'), ...parts)
