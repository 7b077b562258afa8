#!/usr/bin/env node
// Entry of `npx hartonomous`: runs the compiled CLI, compiling it first on a fresh checkout.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const main = join(root, 'dist', 'cli', 'main.js')
if (!existsSync(main)) {
  process.stderr.write('First run: compiling …\n')
  const built = spawnSync('npm', ['run', '--silent', 'build'], { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] })
  if (built.status !== 0) process.exit(1)
}
await import(pathToFileURL(main).href)
