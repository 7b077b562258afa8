// `model.ingest`: a source's files -> payloads and a manifest that names them. Nothing appears in the store before all of it is durable.
import { readFile } from 'node:fs/promises'
import { setImmediate } from 'node:timers/promises'
import { DomainError } from '../../lib/errors.js'
import type { Manifest } from '../../lib/manifest.js'
import type { FileRanges, PayloadBatch, PutResult } from '../../payloads/payload-store.js'
import { describeTensor } from '../architectures/registry.js'
import { encodeManifest } from '../formats/manifest.js'
import { readExactly } from '../formats/random-access.js'
import { invalid, maximumTensors } from '../formats/tensor-file.js'
import type { LocalModel } from '../sources/local-source.js'
import { openSource } from '../sources/open-source.js'
import { describeModel, type ModelDescription } from './build-manifest.js'
import { builtHere } from './built-here.js'
import type { Handler, HandlerContext } from './handler.js'
import { nonZeroGaps, openWeightFile, type WeightFile } from './weight-file.js'

type SourceFiles = NonNullable<Manifest['sourceFiles']>

/** Ingests a source; see `openSource` for the forms it takes and the errors it throws. */
export const ingestModel: Handler<'model.ingest'> = async (input, context) => {
  const started = performance.now()
  const { signal } = context
  const source = await openSource(input.source, input.revision, context)
  const files: WeightFile[] = []
  const batch = context.payloads.batch(signal)
  try {
    for (const local of source.model.weights) files.push(await openWeightFile(local, source.model.format))
    checkSizes(source.model, files, context)
    const tensorBytes = files.reduce((total, f) => total + f.content.tensors.reduce((sum, t) => sum + t.bytes, 0), 0)
    const store = new Counted(batch)
    const auxiliary = await readAuxiliary(source.model)

    let read = 0
    const onBytes = (bytes: number) => {
      read += bytes
      context.progress({ stage: 'tensors', completed: read, total: tensorBytes, unit: 'bytes' })
    }
    onBytes(0)
    const hashes: PutResult[] = []
    const sourceFiles: SourceFiles = []
    let description: ModelDescription | undefined
    for (const file of files) {
      const { handle, name, content } = file
      const storeAll = (stop: AbortSignal) =>
        store.putRanges({ file: handle, name, ranges: content.tensors, signal: stop, onBytes })
      let stored: PutResult[]
      if (description) stored = await storeAll(signal)
      else {
        // The tokenizer is converted on this thread while the first tensors are read and written in others.
        const describe = async () => {
          await setImmediate()
          return describeModel(files, auxiliary)
        }
        ;[stored, description] = await bothOrNone(signal, storeAll, describe)
      }
      // Not push(...): a call has room for some ten thousand arguments only.
      for (const range of stored) hashes.push(range)
      sourceFiles.push(await storeFile(file, store))
    }
    if (!description) throw invalid('The source holds no weight file')
    for (const [name, bytes] of auxiliary) {
      const { hash } = await store.putBytes(bytes)
      sourceFiles.push({ name, bytes: bytes.length, header: hash, tensors: [] })
    }

    context.progress({ stage: 'manifest', completed: 0, total: 1, unit: 'manifests' })
    const manifest = await makeManifest(description, files, hashes, sourceFiles, store)
    for (const file of files) await file.checkUnchanged()
    const known = await builtHere({ manifest, files, auxiliary }, context)
    const hash = known ?? (await store.putBytes(encodeManifest(manifest))).hash
    if (!known) await batch.commit()
    context.progress({ stage: 'manifest', completed: 1, total: 1, unit: 'manifests' })
    return {
      manifest: hash,
      tensorBytes,
      newTensorBytes: known ? 0 : bytesOfNew(hashes),
      bytesRead: files.reduce((total, f) => total + f.bytes, 0),
      bytesWritten: known ? 0 : store.bytesWritten,
      tensors: manifest.tensors.length,
      seconds: (performance.now() - started) / 1000,
    }
  } finally {
    await batch.rollback()
    for (const file of files) await file.handle.close()
    await source.close()
  }
}

/** Tensors that share a new payload count each, so that a model which is all new has all its bytes new. */
function bytesOfNew(ranges: readonly PutResult[]): number {
  const written = new Set(ranges.filter(range => range.written).map(range => range.hash))
  return ranges.reduce((sum, { hash, bytes }) => sum + (written.has(hash) ? bytes : 0), 0)
}

/** Runs both; where one fails, the other is stopped and awaited, so that nothing goes on in the background. */
async function bothOrNone<A, B>(
  signal: AbortSignal,
  first: (stop: AbortSignal) => Promise<A>,
  second: () => Promise<B>,
): Promise<[A, B]> {
  const stop = new AbortController()
  const failed = (error: unknown): never => {
    stop.abort(error)
    throw error
  }
  const [a, b] = await Promise.allSettled([
    first(AbortSignal.any([signal, stop.signal])).catch(failed),
    second().catch(failed),
  ])
  if (b.status === 'rejected') throw b.reason
  if (a.status === 'rejected') throw a.reason
  return [a.value, b.value]
}

/** A batch that counts what was new. */
class Counted implements PayloadBatch {
  bytesWritten = 0
  constructor(private readonly batch: PayloadBatch) {}
  async put(chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>) {
    return this.count(await this.batch.put(chunks))
  }
  async putBytes(bytes: Uint8Array) {
    return this.count(await this.batch.putBytes(bytes))
  }
  async putRanges(ranges: FileRanges) {
    return (await this.batch.putRanges(ranges)).map(result => this.count(result))
  }
  commit = () => this.batch.commit()
  rollback = () => this.batch.rollback()
  private count<T extends { bytes: number; written: boolean }>(result: T): T {
    if (result.written) this.bytesWritten += result.bytes
    return result
  }
}

/** Size limit, names that appear in two shards, and shards that do not hold what the index says. */
function checkSizes(model: LocalModel, files: readonly WeightFile[], context: HandlerContext) {
  const bytes = files.reduce((total, f) => total + f.bytes, 0)
  const limit = context.env.HARTONOMOUS_MAX_SOURCE_BYTES
  if (bytes > limit) {
    throw new DomainError(
      'SOURCE_REFUSED',
      `The source has ${bytes} bytes, HARTONOMOUS_MAX_SOURCE_BYTES allows ${limit}`,
    )
  }
  const holder = new Map<string, string>()
  for (const file of files) {
    for (const { name } of file.content.tensors) {
      const other = holder.get(name)
      if (other !== undefined) throw invalid(`tensor ${name} is both in ${other} and in ${file.name}`)
      holder.set(name, file.name)
    }
  }
  if (holder.size > maximumTensors) throw invalid(`The source holds ${holder.size} tensors, at most ${maximumTensors}`)
  for (const [tensor, shard] of model.weightMap ?? []) {
    if (holder.get(tensor) !== shard)
      throw invalid(`The index says that ${shard} holds the tensor ${tensor.slice(0, 200)}; it does not`)
  }
}

async function readAuxiliary(model: LocalModel): Promise<Map<string, Uint8Array>> {
  const bytes = new Map<string, Uint8Array>()
  for (const file of model.auxiliary) bytes.set(file.name, await readFile(file.path))
  return bytes
}

/** Header and odd padding of a weight file, so that it can be written out again byte for byte. */
async function storeFile(file: WeightFile, store: PayloadBatch): Promise<SourceFiles[number]> {
  const header = Buffer.alloc(file.content.headerBytes)
  await readExactly(file.handle, header, 0, file.name)
  const gaps = []
  for (const { offset, bytes } of await nonZeroGaps(file)) {
    gaps.push({ offset, payload: (await store.putBytes(bytes)).hash })
  }
  return {
    name: file.name,
    bytes: file.bytes,
    header: (await store.putBytes(header)).hash,
    tensors: file.content.tensors.map(({ name, offset }) => ({ name, offset })),
    ...(gaps.length > 0 ? { gaps } : {}),
  }
}

async function makeManifest(
  description: ModelDescription,
  files: readonly WeightFile[],
  hashes: readonly PutResult[],
  sourceFiles: SourceFiles,
  store: PayloadBatch,
): Promise<Manifest> {
  const { tokenizer, sourceConfig, ...facts } = description
  const put = async (bytes: Uint8Array | undefined) => bytes && (await store.putBytes(bytes)).hash
  const tokenizerJson = await put(tokenizer?.tokenizerJson)
  return {
    manifestVersion: 1,
    ...facts,
    tensors: files
      .flatMap(file => file.content.tensors)
      .map((tensor, index) => ({
        name: tensor.name,
        ...describeTensor(facts.architecture, facts.format, tensor.name),
        shape: tensor.shape,
        dtype: tensor.dtype,
        bytes: tensor.bytes,
        payload: hashes[index]!.hash,
      })),
    tokenizer:
      tokenizer && tokenizerJson
        ? { ...tokenizer, tokenizerJson, tokenizerConfig: await put(tokenizer.tokenizerConfig) }
        : undefined,
    sourceFiles,
    sourceConfig: await put(sourceConfig),
  }
}
