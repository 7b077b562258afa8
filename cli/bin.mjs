#!/usr/bin/env node
// Entry of `npx hartonomous`: runs the compiled CLI.
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const main = join(dirname(fileURLToPath(import.meta.url)), '..', 'dist', 'cli', 'main.js')
if (!existsSync(main)) {
  process.stderr.write('hartonomous is not built yet: run `npm run build` in its folder.\n')
  process.exit(1)
}
await import(pathToFileURL(main).href)
