// Rows that a student writes itself: completions sampled from its weights as they are, for the teacher to judge token by token. So it learns
// from what it would say, mistakes included (generalised knowledge distillation, Agarwal et al. 2024, arXiv 2306.13649).
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { DomainError } from '../../lib/errors.js'
import { inTurns } from '../../lib/in-turns.js'
import type { Manifest } from '../../lib/manifest.js'
import { openFilePayloadStore } from '../../payloads/file-payload-store.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import { readManifest } from '../formats/manifest.js'
import { loadTokenizer } from '../formats/tokenizer.js'
import { generate } from '../inference/generate.js'
import { type ModelContext, openModel } from '../inference/model.js'
import { seededRandom } from '../inference/sampling.js'
import { throwIfCancelled } from '../runtime/cancellation.js'
import { type PackedRow, packRows, shuffled, type TrainingText } from './pack-rows.js'
import { writeTrained } from './write-trained.js'

export interface OwnPrompt {
  group: string
  prompt: string
  tokens: number
}

export interface OwnRowsOptions {
  student: Manifest
  /** What it goes on from, with its number of tokens; groups take turns. */
  prompts: readonly OwnPrompt[]
  /** Tokens of a row. */
  sequence: number
  promptWeight: number
  separator?: number | undefined
  seed: number
  /** Within the data folder; weights lie in it while rows are written. */
  folder: string
}

/** Completions that are sampled at once. */
const together = 16
/** Tokens of a row that a prompt must leave. */
const leastRoom = 8

/**
 * As many rows as asked for, the same for the same weights, options and step: prompts taken by the seed, answers sampled at temperature 1.
 * @param weights what the student's tensors are now, by role
 * @throws BAD_USER_INPUT where every prompt fills a row
 */
export async function writeOwnRows(
  { student, prompts, sequence, promptWeight, separator, seed, folder }: OwnRowsOptions,
  weights: readonly { name: string; weight: Float32Array }[],
  { step, rows }: { step: number; rows: number },
  context: ModelContext & { payloads: PayloadStore },
): Promise<PackedRow[]> {
  const { signal } = context
  const own = join(folder, 'own')
  await rm(own, { recursive: true, force: true })
  try {
    const payloads = over(context.payloads, await openFilePayloadStore(own))
    // Joined matrices would be derived files, which outlive the weights they come from.
    const { fusions: _joined, ...plain } = student
    const { hash } = await writeTrained(plain, weights, { payloads, ...(signal && { signal }) })
    const tokenizer = await loadTokenizer(student, payloads)
    const random = seededRandom(seed * 1_000_003 + step)
    const room = Math.min(sequence, student.dimensions.contextLength ?? sequence)
    const open = inTurns(
      shuffled(prompts, random).filter(({ tokens }) => tokens <= room - leastRoom),
      ({ group }) => group,
    )
    if (open.length === 0)
      throw new DomainError('BAD_USER_INPUT', `Every prompt of the training data fills a row of ${room} tokens`, {
        field: ['input', 'data'],
      })
    const model = await openModel(await readManifest(payloads, hash), { ...context, payloads })
    try {
      const texts: TrainingText[] = []
      let tokens = 0
      for (let at = 0; tokens < rows * sequence; at += together) {
        const asked = Array.from({ length: together }, (_, i) => open[(at + i) % open.length]!)
        const seeds = asked.map(() => Math.floor(random() * 2 ** 31))
        const said = await Promise.all(
          asked.map(async ({ group, prompt }, i): Promise<TrainingText> => {
            const ids = [...tokenizer.encodePrompt(prompt)]
            const request = { prompt, maxTokens: room - ids.length, temperature: 1, seed: seeds[i]! }
            // A signal each: Node warns of many listeners to one.
            const { tokenIds, finishReason } = await generate(
              model,
              tokenizer,
              request,
              signal ? { signal: AbortSignal.any([signal]) } : {},
            )
            // The token that ends it is put behind every text.
            return { group, prompt: ids, completion: finishReason === 'STOP' ? tokenIds.slice(0, -1) : tokenIds }
          }),
        )
        throwIfCancelled(signal)
        const end = separator === undefined ? 0 : 1
        for (const { prompt, completion } of said) tokens += Math.min(sequence, prompt.length + completion.length + end)
        texts.push(...said)
      }
      const packed = packRows(texts, {
        sequence,
        tokens: rows * sequence,
        seed,
        promptWeight,
        balanced: false,
        separator,
      })
      return packed.map(row => ({ ...row, own: true }))
    } finally {
      await model.dispose()
    }
  } finally {
    await rm(own, { recursive: true, force: true })
  }
}

/** A store whose new payloads lie in `own`; all others are read from `base`. */
function over(base: PayloadStore, own: PayloadStore): PayloadStore {
  const written = new Set<string>()
  const of = (hash: string) => (written.has(hash) ? own : base)
  return {
    ...base,
    put: async (chunks, signal) => {
      const result = await own.put(chunks, signal)
      written.add(result.hash)
      return result
    },
    has: hash => of(hash).has(hash),
    size: hash => of(hash).size(hash),
    path: hash => of(hash).path(hash),
    get: hash => of(hash).get(hash),
    open: (hash, offset, length) => of(hash).open(hash, offset, length),
  }
}
