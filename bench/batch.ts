// `npm run bench -- batch [model] [--rows 8]`: decoding speed of a batch against one sequence by itself, in turns, on float32 and quantised kernels.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { readManifest } from '../compute/formats/manifest.js'
import { ingestModel } from '../compute/handlers/ingest-model.js'
import { standaloneContext } from '../compute/handlers/standalone-context.js'
import { type LoadedModel, openModel } from '../compute/inference/model.js'
import { greatest } from '../compute/inference/sampling.js'
import { readEnv } from '../lib/env.js'
import { projectFile } from '../lib/project.js'

const promptTokens = 16
const median = (list: number[]) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)]!

/** Tokens per second of `rows` sequences that decode greedily through the batch, prompts not counted. */
async function speed(model: LoadedModel, rows: number, tokens: number): Promise<number> {
  const sequences = await Promise.all(
    Array.from({ length: rows }, async (_, r) => {
      const row = model.batch.open({ positions: promptTokens + tokens })
      const prompt = Array.from(
        { length: promptTokens },
        (_, i) => (i * 37 + r * 101 + 11) % model.dimensions.vocabularySize,
      )
      return { row, next: greatest(await row.append(prompt)) }
    }),
  )
  const started = performance.now()
  await Promise.all(
    sequences.map(async sequence => {
      for (let i = 0; i < tokens; i++) sequence.next = greatest(await sequence.row.append([sequence.next]))
    }),
  )
  const seconds = (performance.now() - started) / 1000
  for (const { row } of sequences) row.close()
  return (rows * tokens) / seconds
}

export async function run(args: string[]): Promise<Record<string, unknown>> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      rows: { type: 'string', default: '8' },
      rounds: { type: 'string', default: '5' },
      tokens: { type: 'string', default: '32' },
    },
  })
  const [rows, rounds, tokens] = [values.rows, values.rounds, values.tokens].map(Number) as [number, number, number]
  const dataFolder = await mkdtemp(join(tmpdir(), 'bench-batch-'))
  try {
    const env = { ...readEnv(), HARTONOMOUS_DATA: dataFolder }
    const context = await standaloneContext(dataFolder)
    const source =
      positionals[0] ?? projectFile('../shared/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf')
    const { manifest } = await ingestModel({ source }, context)
    const figures: Record<string, unknown> = { rows }
    for (const kernels of ['float32', 'quantised'] as const) {
      const model = await openModel(await readManifest(context.payloads, manifest), {
        ...context,
        env: { ...env, HARTONOMOUS_KERNELS: kernels },
      })
      await speed(model, rows, 4)
      await speed(model, 1, 4)
      const single: number[] = []
      const batch: number[] = []
      for (let round = 0; round < rounds; round++) {
        single.push(await speed(model, 1, tokens))
        batch.push(await speed(model, rows, tokens))
      }
      await model.dispose()
      figures[`${kernels}SingleTokensPerSecond`] = median(single)
      figures[`${kernels}BatchTokensPerSecond`] = median(batch)
      figures[`${kernels}BatchToSingle`] = median(batch.map((b, i) => b / single[i]!))
      figures[`${kernels}BatchToBestSingle`] = median(batch) / Math.max(...single)
    }
    return figures
  } finally {
    await rm(dataFolder, { recursive: true, force: true })
  }
}
