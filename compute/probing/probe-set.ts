// Probe sets: prompt/completion pairs that show capabilities at work, as JSONL; parsing with line numbers, splits and selection.
import { createHash } from 'node:crypto'
import { setImmediate } from 'node:timers/promises'
import { z } from 'zod'
import { DomainError } from '../../lib/errors.js'
import { textSamples } from './text-samples.js'

/** Named limits for foreign probe sets; each line is held in memory once. */
export const probeLimits = {
  /** One pair is cut to a few hundred tokens anyway. */
  lineBytes: 256 * 1024,
  samples: 100_000,
  /** The whole set is read into memory by every analysis. */
  bytes: 64 * 1024 * 1024,
  slugLength: 64,
} as const

export const splits = ['probe', 'validation'] as const
export type Split = (typeof splits)[number]

export interface ProbeSample {
  /** Slug of the top-level capability (the field `task`). */
  capability: string
  /** Slug of the sub-capability (the field `subtask`). */
  subtask: string
  split: Split
  prompt: string
  completion: string
}

const slug = z
  .string()
  .max(probeLimits.slugLength)
  .regex(/^[a-z0-9]+(?:[_-][a-z0-9]+)*$/, 'must be a slug of a-z, 0-9, _ and -')

const lineSchema = z.object({
  task: slug,
  subtask: slug,
  split: z.enum(splits).optional(),
  prompt: z.string().min(1),
  completion: z.string().min(1),
})

/** A line that is a text: cut into passages. */
const textLineSchema = z.object({
  text: z.string().min(1),
  task: slug.default('text'),
  subtask: slug.default('plain'),
  split: z.enum(splits).optional(),
})

const refuse = (message: string): never => {
  throw new DomainError('INVALID_PROBE_DATASET', message, { field: ['input', 'source'] })
}

/** A parsed line; `split` is absent where the line does not say. `document`: hash of the text that it is a passage of. */
export type RawSample = Omit<ProbeSample, 'split'> & { split?: Split | undefined; document?: string | undefined }

/** The passages of a text. */
export function documentSamples(text: string, task: string, subtask: string, split?: Split): RawSample[] {
  const document = sha256(text)
  return textSamples(text, task, subtask).map(sample => ({ ...sample, split, document }))
}

/** One sample, those of a text, or none of an empty line. */
function parseLine(bytes: Uint8Array, where: string): RawSample[] {
  if (bytes.length > probeLimits.lineBytes)
    return refuse(`${where}: ${bytes.length} bytes, at most ${probeLimits.lineBytes} are allowed`)
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes).trim()
  } catch {
    return refuse(`${where}: not valid UTF-8`)
  }
  if (text === '') return []
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    return refuse(`${where}: not JSON (${(error as Error).message.slice(0, 120)})`)
  }
  const isText = typeof value === 'object' && value !== null && 'text' in value && !('prompt' in value)
  const parsed = (isText ? textLineSchema : lineSchema).safeParse(value)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]
    const [key] = issue?.path ?? []
    if (key !== undefined && !(key in (value as object)))
      return refuse(`${where}: the field "${String(key)}" is missing`)
    return refuse(`${where}: ${issue?.path.join('.') || 'line'}: ${issue?.message ?? 'malformed'}`)
  }
  const { task, subtask, split, ...rest } = parsed.data
  if ('text' in rest) return documentSamples(rest.text, task, subtask, split)
  return [{ capability: task, subtask, split, ...rest }]
}

/**
 * Reads JSONL of {task, subtask, split?, prompt, completion} or {text, task?, subtask?, split?}; empty lines are skipped, further fields ignored.
 * @param name what the messages call the set
 * @throws INVALID_PROBE_DATASET naming the line (counted from 1) or the limit
 */
export async function readProbeLines(
  chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  name = 'probe set',
): Promise<RawSample[]> {
  const samples: RawSample[] = []
  let line = 1
  let total = 0
  let rest: Uint8Array[] = []
  let restBytes = 0
  const take = (bytes: Uint8Array) => {
    for (const sample of parseLine(bytes, `${name}, line ${line}`)) samples.push(sample)
    line++
    if (samples.length > probeLimits.samples) refuse(`${name}: more than ${probeLimits.samples} samples`)
  }
  for await (const chunk of chunks) {
    total += chunk.length
    if (total > probeLimits.bytes) refuse(`${name}: more than ${probeLimits.bytes} bytes`)
    let from = 0
    for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, from)) {
      take(Buffer.concat([...rest, chunk.subarray(from, at)]))
      rest = []
      restBytes = 0
      from = at + 1
    }
    if (from < chunk.length) {
      // A copy: sources may reuse their buffer.
      rest.push(chunk.slice(from))
      restBytes += chunk.length - from
      if (restBytes > probeLimits.lineBytes)
        refuse(
          `${name}, line ${line}: more than ${probeLimits.lineBytes} bytes, at most ${probeLimits.lineBytes} are allowed`,
        )
    }
  }
  if (restBytes > 0) take(Buffer.concat(rest))
  if (samples.length === 0) refuse(`${name}: holds no samples`)
  return samples
}

/** Bytes parsed between two turns of the event loop: some ten milliseconds. */
const parseBytes = 1024 * 1024

/** Parses a stored probe set; its lines all name their split. */
export async function parseProbeSet(bytes: Uint8Array): Promise<ProbeSample[]> {
  const pieces = async function* () {
    for (let at = 0; at < bytes.length; at += parseBytes) {
      await setImmediate()
      yield bytes.subarray(at, at + parseBytes)
    }
  }
  return assignSplits(await readProbeLines(pieces()))
}

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex')

/** Share of a text that is held out where it is the only one. */
const heldOutShare = 0.25

/**
 * Gives samples without a split one that depends on nothing but the data: `validation` where the prompt's SHA-256 begins below 0x40
 * (about a quarter), so that equal prompts never lie in both. Passages of texts go together by the hash of the whole text; of a text that is
 * all that a sub-capability has, the last quarter is `validation`: a passage's neighbours say much of it. A sub-capability with two or more
 * different prompts or texts gets at least one of each.
 */
export function assignSplits(samples: RawSample[]): ProbeSample[] {
  // What goes together, for samples that do not say their split.
  const units = new Map<RawSample, string>()
  const result = samples.map(sample => {
    const { document, ...rest } = sample
    if (rest.split) return { ...rest, split: rest.split }
    const unit = document ?? sha256(sample.prompt)
    units.set(sample, unit)
    return { ...rest, split: (Number.parseInt(unit.slice(0, 2), 16) < 0x40 ? 'validation' : 'probe') as Split }
  })
  for (const indices of groupIndices(samples, s => `${s.capability}/${s.subtask}`).values()) {
    const { document } = samples[indices[0]!]!
    if (document && indices.length > 1 && indices.every(i => units.get(samples[i]!) === document)) {
      const held = Math.max(1, Math.round(indices.length * heldOutShare))
      indices.forEach((i, at) => {
        result[i]!.split = at < indices.length - held ? 'probe' : 'validation'
      })
      continue
    }
    for (const missing of splits) {
      if (indices.some(i => result[i]?.split === missing)) continue
      // The one nearest to the border moves over, with all samples that share it.
      const free = indices.flatMap(i => units.get(samples[i]!) ?? []).sort()
      const moved = missing === 'validation' ? free[0] : free.at(-1)
      if (moved === undefined || new Set(indices.map(i => units.get(samples[i]!) ?? samples[i]!.prompt)).size < 2)
        continue
      for (const i of indices) if (units.get(samples[i]!) === moved) result[i]!.split = missing
    }
  }
  // Texts share passages (licences, headings): none that is held out is trained on.
  const heldOut = new Set(result.flatMap(({ split, prompt }) => (split === 'validation' ? [prompt] : [])))
  samples.forEach((sample, i) => {
    if (sample.document && units.has(sample) && heldOut.has(sample.prompt)) result[i]!.split = 'validation'
  })
  return result
}

function groupIndices<T>(items: readonly T[], key: (item: T) => string): Map<string, number[]> {
  const groups = new Map<string, number[]>()
  items.forEach((item, i) => {
    const name = key(item)
    const group = groups.get(name)
    if (group) group.push(i)
    else groups.set(name, [i])
  })
  return groups
}

/** The stored form: one JSON object per line with the fields in this order, in the given order of samples. */
export function canonicalProbeSet(samples: readonly ProbeSample[]): Uint8Array {
  const line = ({ capability, subtask, split, prompt, completion }: ProbeSample) =>
    `${JSON.stringify({ task: capability, subtask, split, prompt, completion })}\n`
  return new TextEncoder().encode(samples.map(line).join(''))
}

/** Samples per sub-capability and split, in order of first appearance. */
export function countSamples(samples: readonly ProbeSample[]) {
  return [...groupIndices(samples, s => `${s.capability}/${s.subtask}`).values()].map(indices => {
    const first = samples[indices[0]!]!
    const count = (split: Split) => indices.filter(i => samples[i]?.split === split).length
    return {
      capability: first.capability,
      subtask: first.subtask,
      probe: count('probe'),
      validation: count('validation'),
    }
  })
}

export interface Selection {
  split: Split
  /** Top-level capabilities; absent: all. */
  capabilities?: readonly string[] | undefined
  /** At most this many per capability, taken in turn from its sub-capabilities, each in file order; absent: all. */
  samplesPerCapability?: number | undefined
}

/**
 * The samples an analysis runs over, in file order.
 * @throws INVALID_PROBE_DATASET where the split is empty for a capability, BAD_USER_INPUT where a named capability is not in the set
 */
export function selectSamples(samples: readonly ProbeSample[], selection: Selection): ProbeSample[] {
  const known = [...new Set(samples.map(s => s.capability))]
  const wanted = selection.capabilities ?? known
  const chosen = new Set<number>()
  for (const capability of wanted) {
    if (!known.includes(capability)) {
      throw new DomainError(
        'BAD_USER_INPUT',
        `The probe set has no capability "${capability}"; it has ${known.join(', ')}`,
        { field: ['input', 'capabilities'] },
      )
    }
    const indices = samples.flatMap((s, i) => (s.capability === capability && s.split === selection.split ? [i] : []))
    if (indices.length === 0) refuse(`The probe set has no ${selection.split} samples of ${capability}`)
    const queues = [...groupIndices(indices, i => samples[i]!.subtask).values()].map(g => g.map(k => indices[k]!))
    const limit = selection.samplesPerCapability ?? indices.length
    for (let taken = 0, turn = 0; taken < limit && queues.some(q => q.length > turn); turn++) {
      for (const queue of queues) {
        const index = queue[turn]
        if (index === undefined || taken >= limit) continue
        chosen.add(index)
        taken++
      }
    }
  }
  return samples.filter((_, i) => chosen.has(i))
}

/** The samples of each capability in turns of its sub-capabilities, each in file order: any first few show all of them. */
export function turnsBySubtask(samples: readonly ProbeSample[]): ProbeSample[] {
  return [...groupIndices(samples, s => s.capability).values()].flatMap(indices => {
    const queues = [...groupIndices(indices, i => samples[i]!.subtask).values()].map(g => g.map(k => indices[k]!))
    const longest = Math.max(...queues.map(q => q.length))
    return Array.from({ length: longest }, (_, turn) =>
      queues.flatMap(queue => (queue[turn] === undefined ? [] : [samples[queue[turn]]!])),
    ).flat()
  })
}
