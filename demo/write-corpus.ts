// Writes the demo corpus as JSONL files: node dist/demo/write-corpus.js <folder> [seed].
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DEFAULT_SEED, makeCorpus } from './corpus.js'

const [folder, seed] = process.argv.slice(2)
if (!folder) {
  console.error('usage: write-corpus <folder> [seed]')
  process.exit(1)
}
mkdirSync(folder, { recursive: true })
const corpus = makeCorpus(seed === undefined ? DEFAULT_SEED : Number(seed))
for (const name of ['train', 'probe', 'validation'] as const) {
  const items = corpus[name]
  writeFileSync(join(folder, `${name}.jsonl`), items.map(item => `${JSON.stringify(item)}\n`).join(''))
  console.log(`${name}.jsonl: ${items.length} documents`)
}
