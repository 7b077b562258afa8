// `npm run bench -- ingest [file]`: ingesting a model against hashing and copying the same file, in turns in one run.
import { fork } from 'node:child_process'
import { createHash, randomFillSync } from 'node:crypto'
import { existsSync } from 'node:fs'
import { copyFile, mkdtemp, open, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { parseArgs } from 'node:util'
import Table from 'cli-table3'
import { writeSafetensorsHeader } from '../compute/formats/safetensors.js'
import { ingestModel } from '../compute/handlers/ingest-model.js'
import { standaloneContext } from '../compute/handlers/standalone-context.js'
import { fileWorkEnvironment } from '../lib/env.js'
import { compiledFile, projectFile } from '../lib/project.js'

const defaultFile = () =>
  projectFile('..', 'shared', 'models', 'smollm2-135m-instruct', 'SmolLM2-135M-Instruct.Q4_1.gguf')
const chunkBytes = 4 * 1024 * 1024
/** First argument of the process that measures. */
const childMark = 'measure-ingest'

async function timed(work: () => Promise<unknown>): Promise<number> {
  const started = performance.now()
  await work()
  return (performance.now() - started) / 1000
}

async function hashFile(path: string) {
  const file = await open(path)
  const hash = createHash('sha256')
  const buffer = Buffer.allocUnsafeSlow(chunkBytes)
  for (;;) {
    const { bytesRead } = await file.read(buffer, 0, chunkBytes)
    if (bytesRead === 0) break
    hash.update(buffer.subarray(0, bytesRead))
  }
  await file.close()
  return hash.digest('hex')
}

async function copySynced(from: string, to: string) {
  await copyFile(from, to)
  const file = await open(to, 'r+')
  await file.sync()
  await file.close()
}

/** 96 MB of random float32 in the shape of a small Llama: 240 tensors of about 400 kB. */
async function generate(path: string) {
  const tensors = Array.from({ length: 240 }, (_, i) => ({
    name: `model.layers.${i >> 3}.part${i & 7}.weight`,
    dtype: 'F32',
    shape: [256, 400],
    bytes: 256 * 400 * 4,
  }))
  const file = await open(path, 'w')
  await file.write(writeSafetensorsHeader(tensors))
  for (const { bytes } of tensors) await file.write(randomFillSync(Buffer.alloc(bytes)))
  await file.sync()
  await file.close()
}

/** Prints a table and returns its figures. Options: a file, `--rounds N` (5). Measured in a process like the io worker's. */
export async function run(args: string[]): Promise<Record<string, unknown>> {
  const child = fork(compiledFile('bench/ingest.js'), [childMark, ...args], {
    env: fileWorkEnvironment(),
    execArgv: [],
  })
  const figures = await new Promise<Record<string, unknown>>((resolve, reject) => {
    child.once('message', message => resolve(message as Record<string, unknown>))
    child.once('error', reject)
    child.once('exit', code => reject(new Error(`The measuring process ended with ${code}`)))
  })
  const table = new Table({ head: ['figure', 'median'] })
  for (const [name, value] of Object.entries(figures)) {
    table.push([name, typeof value === 'number' && !Number.isInteger(value) ? value.toFixed(3) : String(value)])
  }
  process.stdout.write(`${table.toString()}\n`)
  return figures
}

async function measure(args: string[]) {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: { rounds: { type: 'string', default: '5' } },
  })
  const folder = await mkdtemp(join(tmpdir(), 'bench-ingest-'))
  try {
    let path = positionals[0] ?? defaultFile()
    if (!existsSync(path)) {
      path = join(folder, 'model.safetensors')
      await generate(path)
    }
    const { size } = await stat(path)
    // Warm: file in the page cache, code compiled.
    await hashFile(path)
    const rounds: { hash: number; copy: number; ingest: number; again: number }[] = []
    let peakRss = 0
    const idleRss = process.memoryUsage.rss()
    const sampler = setInterval(() => {
      peakRss = Math.max(peakRss, process.memoryUsage.rss())
    }, 5)
    for (let round = 0; round < Number(values.rounds); round++) {
      const data = join(folder, `data-${round}`)
      const context = await standaloneContext(data, { env: {} })
      const hash = await timed(() => hashFile(path))
      // Nothing is deleted before the end: ext4 searches long for an inode while many were freed within the last seconds.
      const copy = await timed(() => copySynced(path, join(folder, `copy-${round}`)))
      const ingest = await timed(() => ingestModel({ source: path }, context))
      const again = await timed(() => ingestModel({ source: path }, context))
      rounds.push({ hash, copy, ingest, again })
    }
    clearInterval(sampler)
    const median = (pick: (r: (typeof rounds)[number]) => number) => {
      const sorted = rounds.map(pick).sort((a, b) => a - b)
      return sorted[sorted.length >> 1] ?? Number.NaN
    }
    const figures = {
      file: basename(path),
      bytes: size,
      hashSeconds: median(r => r.hash),
      copySeconds: median(r => r.copy),
      ingestSeconds: median(r => r.ingest),
      secondIngestSeconds: median(r => r.again),
      /** 1 would be as fast as hashing and copying the file one after the other. */
      ratio: median(r => (r.hash + r.copy) / r.ingest),
      bestRatio: Math.max(...rounds.map(r => (r.hash + r.copy) / r.ingest)),
      megabytesPerSecond: size / 1e6 / median(r => r.ingest),
      peakRssRiseBytes: peakRss - idleRss,
    }
    return figures
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

if (process.argv[2] === childMark) process.send?.(await measure(process.argv.slice(3)), () => process.disconnect())
