// probes.import: a JSONL file, or a folder of them, becomes a probe set in the store: checked, split and in canonical form.
import { createReadStream } from 'node:fs'
import { readdir, stat } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { DomainError } from '../../lib/errors.js'
import { throwIfAborted } from '../../payloads/file-payload-store.js'
import {
  assignSplits,
  canonicalProbeSet,
  countSamples,
  probeLimits,
  type RawSample,
  readProbeLines,
  type Split,
  splits,
} from '../probing/probe-set.js'
import type { Handler, HandlerContext } from './handler.js'

const sourceError = (code: 'SOURCE_NOT_FOUND' | 'SOURCE_REFUSED', message: string, cause?: unknown) =>
  new DomainError(code, message, { field: ['input', 'source'], cause })

/** The path of a source on this machine. */
function localPath(source: string): string {
  const scheme = /^([a-z][a-z0-9+.-]+):/i.exec(source)?.[1]?.toLowerCase()
  if (scheme === undefined) return resolve(source)
  if (scheme !== 'file') throw sourceError('SOURCE_REFUSED', `${scheme}: probe sets are read from a path or file:`)
  try {
    return fileURLToPath(source)
  } catch (cause) {
    throw sourceError('SOURCE_REFUSED', `${source.slice(0, 200)}: not a file address of this machine`, cause)
  }
}

/** The JSONL files that a path names: itself, or those of a folder in the order of their names. */
async function jsonlFiles(path: string): Promise<string[]> {
  const entry = await stat(path).catch((cause: NodeJS.ErrnoException) => {
    throw sourceError(
      'SOURCE_NOT_FOUND',
      `${path}: ${cause.code === 'ENOENT' ? 'does not exist' : 'cannot be read'}`,
      cause,
    )
  })
  if (!entry.isDirectory()) {
    if (!entry.isFile()) throw sourceError('SOURCE_NOT_FOUND', `${path}: neither a file nor a folder`)
    return [path]
  }
  const names = (await readdir(path)).filter(name => name.endsWith('.jsonl')).sort()
  if (names.length === 0)
    throw new DomainError('INVALID_PROBE_DATASET', `${path}: the folder holds no .jsonl files`, {
      field: ['input', 'source'],
    })
  return names.map(name => join(path, name))
}

/** In files called probe.jsonl and validation.jsonl, lines without a split belong to the one the name says. */
const splitOfFile = (path: string): Split | undefined => splits.find(split => basename(path) === `${split}.jsonl`)

async function readSamples(path: string, context: HandlerContext): Promise<RawSample[]> {
  const { size } = await stat(path)
  if (size > probeLimits.bytes) {
    throw new DomainError(
      'INVALID_PROBE_DATASET',
      `${basename(path)}: ${size} bytes, at most ${probeLimits.bytes} are allowed`,
      {
        field: ['input', 'source'],
      },
    )
  }
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

export const importProbes: Handler<'probes.import'> = async (input, context) => {
  const raw: RawSample[] = []
  for (const path of await jsonlFiles(localPath(input.source))) {
    // Not push(...): a call has room for some ten thousand arguments only.
    for (const sample of await readSamples(path, context)) raw.push(sample)
  }
  if (raw.length > probeLimits.samples) {
    throw new DomainError('INVALID_PROBE_DATASET', `${raw.length} samples, at most ${probeLimits.samples} are allowed`)
  }
  const samples = assignSplits(raw)
  const { hash } = await context.payloads.put([canonicalProbeSet(samples)], context.signal)
  return { probeSet: hash, sampleCount: samples.length, capabilities: countSamples(samples) }
}
