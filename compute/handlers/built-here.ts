// Whether what is ingested is an export of a model that the store still holds: then it is that model, with its lineage, and not another one.
import { createHash } from 'node:crypto'
import { isDeepStrictEqual } from 'node:util'
import { DomainError } from '../../lib/errors.js'
import { type Manifest, manifestPayloads } from '../../lib/manifest.js'
import { type GgufMetadata, readGguf } from '../formats/gguf.js'
import { readManifest } from '../formats/manifest.js'
import { auxiliaryFiles } from './export-config.js'
import { ggufBytes, planGguf } from './export-gguf.js'
import { exportTensors } from './export-tensors.js'
import type { HandlerContext } from './handler.js'
import { cardName, manifestKey } from './model-card.js'
import type { TensorStream } from './tensor-streams.js'
import type { WeightFile } from './weight-file.js'

export interface Ingested {
  manifest: Manifest
  files: readonly Pick<WeightFile, 'content'>[]
  auxiliary: ReadonlyMap<string, Uint8Array>
}

/**
 * The manifest's hash of the model that this is an export of, as it is stored. A card or a metadata key names it; that is believed only where
 * writing that model again gives the same tensors, byte for byte, and the same configuration and tokenizer.
 */
export async function builtHere(ingested: Ingested, context: HandlerContext): Promise<string | undefined> {
  const claimed = claimOf(ingested)
  if (!claimed || !(await context.payloads.has(claimed))) return undefined
  const model = await readManifest(context.payloads, claimed).catch(() => undefined)
  if (!model) return undefined
  for (const payload of manifestPayloads(model)) if (!(await context.payloads.has(payload))) return undefined
  const same = sameFiles(ingested, model) || (await sameExport(ingested, claimed, model, context))
  return same ? claimed : undefined
}

function claimOf({ files, auxiliary }: Ingested): string | undefined {
  const [first] = files
  if (first?.content.format === 'gguf') {
    const value = first.content.metadata.get('hartonomous.manifest')
    return typeof value === 'string' && /^[0-9a-f]{64}$/.test(value) ? value : undefined
  }
  const card = Buffer.from(auxiliary.get(cardName) ?? []).toString('utf8')
  const front = /^---\n([\s\S]*?)\n---\n/.exec(card)?.[1] ?? ''
  // YAML puts a hash that looks like a number in quotation marks.
  return new RegExp(`^${manifestKey}: *"?([0-9a-f]{64})"?$`, 'm').exec(front)?.[1]
}

/** Of a model as it came, in its own format: the card is the one file more. Files say where tensors lie, the tensors what they hold. */
function sameFiles({ manifest }: Ingested, { sourceFiles, tensors }: Manifest): boolean {
  // As they are stored: without what is undefined.
  const stored = (value: unknown) => JSON.parse(JSON.stringify(value ?? null))
  const held = (of: Manifest['tensors']) => of.map(({ name, dtype, shape, payload }) => [name, dtype, shape, payload])
  return (
    sourceFiles !== undefined &&
    isDeepStrictEqual(stored(manifest.sourceFiles?.filter(file => file.name !== cardName)), sourceFiles) &&
    isDeepStrictEqual(held(manifest.tensors), held(tensors))
  )
}

async function sameExport(ingested: Ingested, hash: string, model: Manifest, context: HandlerContext) {
  const { manifest, auxiliary, files } = ingested
  const { payloads } = context
  if (manifest.format === 'safetensors') {
    if (model.dimensions.perLayer) return false
    const tensors = exportTensors(model, payloads)
    const written = await auxiliaryFiles(model, tensors, payloads)
    const given = [...auxiliary.keys()].filter(name => name !== cardName)
    const same = written.every(([name, bytes]) => Buffer.compare(auxiliary.get(name) ?? Buffer.alloc(0), bytes) === 0)
    return same && given.length === written.length && sameTensors(manifest, tensors, context)
  }
  const plan = await planGguf(model, '', undefined, payloads, { hash }).catch(refusedHere)
  if (!plan) return false
  const virtual = {
    name: 'export',
    size: ggufBytes(plan),
    read: async (from: number, length: number) => plan.header.subarray(from, from + length),
  }
  const { metadata } = await readGguf(virtual)
  const content = files[0]!.content as Extract<WeightFile['content'], { format: 'gguf' }>
  return isDeepStrictEqual(meaning(content.metadata), meaning(metadata)) && sameTensors(manifest, plan.tensors, context)
}

/** What is not written as GGUF has no export here, whatever a file says. */
function refusedHere(error: unknown): undefined {
  if (!(error instanceof DomainError && error.code.startsWith('UNSUPPORTED_'))) throw error
}

/** Metadata without what only tells people about the model. */
const meaning = (metadata: GgufMetadata) =>
  new Map([...metadata].filter(([key]) => !/^(hartonomous\.|general\.(?!architecture|file_type|alignment))/.test(key)))

async function sameTensors(
  { tensors }: Manifest,
  streams: readonly TensorStream[],
  { signal, progress }: HandlerContext,
) {
  const given = new Map(tensors.map(tensor => [tensor.name, tensor]))
  if (given.size !== streams.length) return false
  const total = streams.reduce((sum, stream) => sum + stream.bytes, 0)
  let completed = 0
  for (const stream of streams) {
    const tensor = given.get(stream.name)
    if (tensor?.dtype !== stream.dtype || tensor.shape.join() !== stream.shape.join()) return false
    const hash = createHash('sha256')
    for await (const chunk of stream.chunks(signal)) hash.update(chunk)
    if (hash.digest('hex') !== tensor.payload) return false
    completed += stream.bytes
    progress({ stage: 'comparing', completed, total, unit: 'bytes' })
  }
  return true
}
