// probes.import: a JSONL or text file, or a folder of them, becomes a probe set in the store: checked, split and in canonical form.
import { createReadStream } from 'node:fs'
import { readdir, readFile, stat } from 'node:fs/promises'
import { basename, extname, join } from 'node:path'
import { DomainError } from '../../lib/errors.js'
import { throwIfAborted } from '../../payloads/file-payload-store.js'
import {
  assignSplits,
  canonicalProbeSet,
  countSamples,
  documentSamples,
  probeLimits,
  type RawSample,
  readProbeLines,
  type Split,
  splits,
} from '../probing/probe-set.js'
import { openFile } from '../sources/open-file.js'
import type { Handler, HandlerContext } from './handler.js'

const refused = (message: string) => new DomainError('INVALID_PROBE_DATASET', message, { field: ['input', 'source'] })

const isText = (path: string) => ['.txt', '.md'].includes(extname(path).toLowerCase())

/** Whether a file of a folder is taken: what says README tells people of the folder. */
const isTaken = (name: string) =>
  (name.endsWith('.jsonl') || isText(name)) && basename(name, extname(name)).toLowerCase() !== 'readme'

/** The files that a path names: itself, or the JSONL and text files of a folder in the order of their names. */
async function sampleFiles(path: string): Promise<string[]> {
  const entry = await stat(path)
  // A pipe would be waited for without end.
  if (entry.isFile()) return [path]
  if (!entry.isDirectory()) throw refused(`${path}: neither a file nor a folder`)
  const names = (await readdir(path)).filter(isTaken).sort()
  if (names.length === 0) throw refused(`${path}: the folder holds no .jsonl, .txt or .md files`)
  return names.map(name => join(path, name))
}

/** In files called probe or validation (.jsonl, .txt, .md), what has no split of its own belongs to the one the name says. */
const splitOfFile = (path: string): Split | undefined =>
  splits.find(split => basename(path, extname(path)) === split && (isText(path) || extname(path) === '.jsonl'))

async function readSamples(path: string, context: HandlerContext): Promise<RawSample[]> {
  const entry = await stat(path)
  if (!entry.isFile()) throw refused(`${path}: not a file`)
  const { size } = entry
  if (size > probeLimits.bytes) {
    throw refused(`${basename(path)}: ${size} bytes, at most ${probeLimits.bytes} are allowed`)
  }
  if (isText(path)) return readText(path)
  let completed = 0
  const chunks = async function* () {
    for await (const chunk of createReadStream(path)) {
      throwIfAborted(context.signal)
      completed += (chunk as Buffer).length
      context.progress({ stage: 'read', completed, total: size, unit: 'bytes' })
      yield chunk as Buffer
    }
  }
  const samples = await readProbeLines(chunks(), basename(path))
  const split = splitOfFile(path)
  return split ? samples.map(sample => ({ ...sample, split: sample.split ?? split })) : samples
}

/** Passages of a text file. */
async function readText(path: string): Promise<RawSample[]> {
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(await readFile(path))
  } catch {
    throw refused(`${basename(path)}: not valid UTF-8`)
  }
  const samples = documentSamples(text, 'text', 'plain', splitOfFile(path))
  if (samples.length === 0) throw refused(`${basename(path)}: holds no passage of 40 characters or more`)
  return samples
}

export const importProbes: Handler<'probes.import'> = async (input, context) => {
  const source = await openFile(input.source, context, probeLimits.bytes)
  try {
    const raw: RawSample[] = []
    for (const path of await sampleFiles(source.path)) {
      // Not push(...): a call has room for some ten thousand arguments only.
      for (const sample of await readSamples(path, context)) raw.push(sample)
    }
    if (raw.length > probeLimits.samples)
      throw refused(`${raw.length} samples, at most ${probeLimits.samples} are allowed`)
    const samples = assignSplits(raw)
    const { hash } = await context.payloads.put([canonicalProbeSet(samples)], context.signal)
    return { probeSet: hash, sampleCount: samples.length, capabilities: countSamples(samples) }
  } finally {
    await source.done()
  }
}
