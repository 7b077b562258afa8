// A model of any source as a GGUF file that llama.cpp opens: names, row orders and types as its converter writes them.
import { DomainError } from '../../lib/errors.js'
import type { Manifest, ManifestTensor } from '../../lib/manifest.js'
import type { ModelFacts } from '../../lib/model-facts.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import type { LayerSizes, ResolvedDimensions, TensorPlace } from '../architectures/architecture.js'
import { type BuildableModel, checkBuildable } from '../architectures/registry.js'
import { commonType } from '../formats/common-type.js'
import { ggmlTypeByName, isGgmlType, isQuantized } from '../formats/ggml-types.js'
import { ggufTokenizerEntries } from '../formats/gguf-tokenizer-writer.js'
import { alignedBytes, type GgufEntry, writeGgufHeader } from '../formats/gguf-writer.js'
import { ggmlScheme, intScheme } from '../formats/int-blocks.js'
import { parseJsonObject } from '../formats/json-scan.js'
import { plainRopeFrequencies, ropeFrequencies } from '../inference/rope.js'
import type { ExportQuantization } from '../pool/job-types.js'
import { inConvention, placeOf } from './export-tensors.js'
import { lineageText, scoresText } from './model-card.js'
import { asGgml, converted, storedStream, type TensorStream } from './tensor-streams.js'

export interface GgufExport {
  /** Metadata and tensor table. */
  header: Uint8Array
  /** In the file's order; each is followed by zeros up to `alignedBytes`. */
  tensors: TensorStream[]
  /** The type of most parameters, as file names say it: `Q4_1`. */
  label: string
  /** What is written otherwise than it is stored. */
  notes: string[]
}

/** `general.file_type` (llama.cpp's LLAMA_FTYPE_MOSTLY_*) of the types that are written here. */
const fileTypes: Readonly<Record<string, number>> = {
  F32: 0,
  F16: 1,
  Q4_0: 2,
  Q4_1: 3,
  Q8_0: 7,
  Q5_0: 8,
  Q5_1: 9,
  BF16: 32,
}

/**
 * Plans the file; nothing is read but the tokenizer.
 * @param quantization type of all matrices; absent: as stored
 * @param about the manifest's hash, and what the database knows of the model
 * @throws DomainError UNSUPPORTED_ARCHITECTURE, UNSUPPORTED_FORMAT naming the tensor or the tokenizer's part, SHAPE_MISMATCH
 */
export async function planGguf(
  manifest: Manifest,
  name: string,
  quantization: ExportQuantization | undefined,
  payloads: PayloadStore,
  about: { hash: string; facts?: ModelFacts | undefined },
): Promise<GgufExport> {
  const model = checkBuildable(manifest)
  const tensors: TensorStream[] = []
  const source = await sourceMetadata(manifest, payloads)
  const scaling = scalingEntries(manifest, model, source)
  for (const tensor of manifest.tensors) {
    const stream = ggufTensor(manifest, model, tensor, quantization, payloads)
    if (stream) tensors.push(stream)
  }
  const factors = ropeFactors(manifest, model)
  if (factors) tensors.push(factors)
  const label = commonType(tensors) ?? 'F32'
  const tokenizer = manifest.tokenizer
  const entries = new Map<string, GgufEntry>([
    ['general.architecture', { text: ggufName(model, name) }],
    ['general.type', { text: 'model' }],
    ['general.name', { text: name }],
    ...(manifest.license ? [['general.license', { text: manifest.license }] as const] : []),
    ...factEntries(name, about.hash, about.facts),
    ['general.file_type', { u32: fileTypes[label] ?? 0 }],
    ...(tensors.some(t => isQuantized(t.dtype)) ? [['general.quantization_version', { u32: 2 }] as const] : []),
    ...dimensionEntries(model, ggufName(model, name), scaling),
    ...(tokenizer
      ? ggufTokenizerEntries(
          parseJsonObject(await payloads.get(tokenizer.tokenizerJson), 'tokenizer.json'),
          tokenizer,
          model.dimensions.vocabularySize,
          sourceRule(source),
        )
      : [['tokenizer.ggml.model', { text: 'none' }] as const]),
    ...(manifest.chatTemplate ? [['tokenizer.chat_template', { text: manifest.chatTemplate }] as const] : []),
  ])
  return { header: writeGgufHeader(entries, tensors), tensors, label, notes: blockNotes(manifest, quantization) }
}

/** Blocks of ours that ggml has no type for. */
function blockNotes({ tensors }: Manifest, quantization: ExportQuantization | undefined): string[] {
  if (quantization) return []
  const counts = new Map<string, number>()
  for (const { dtype } of tensors) {
    const scheme = intScheme(dtype)
    if (scheme && !ggmlScheme(scheme)) counts.set(dtype, (counts.get(dtype) ?? 0) + 1)
  }
  return [...counts].map(
    ([dtype, count]) =>
      `${count} tensors are stored as ${dtype}, for which ggml has no type: written as float32, the same weights.`,
  )
}

/** What the card of a folder says, as far as GGUF has keys for it; our own keys keep the rest. */
function factEntries(name: string, hash: string, facts: ModelFacts | undefined): [string, GgufEntry][] {
  const own: [string, GgufEntry] = ['hartonomous.manifest', { text: hash }]
  if (!facts) return []
  const { version, lineage, recipe, scores } = facts
  const bases = lineage.slice(1)
  return [
    ['general.description', { text: `${lineageText(name, facts)} ${scoresText(facts)}` }],
    ...(version ? [['general.version', { text: version }] as [string, GgufEntry]] : []),
    ...(bases.length > 0 ? [['general.base_model.count', { u32: bases.length }] as [string, GgufEntry]] : []),
    ...bases.map((base, i): [string, GgufEntry] => [`general.base_model.${i}.name`, { text: base.name }]),
    ['general.tags', { texts: ['hartonomous', 'text-generation', ...new Set(scores.map(s => s.capability))] }],
    own,
    ...(recipe ? [['hartonomous.recipe', { text: recipe }] as [string, GgufEntry]] : []),
    ['hartonomous.scores', { text: JSON.stringify(scores) }],
  ]
}

/** Bytes of the whole file. */
export const ggufBytes = ({ header, tensors }: GgufExport) =>
  tensors.reduce((sum, t) => sum + alignedBytes(t.bytes), header.length)

/** The file's bytes in order. */
export async function* ggufChunks({ header, tensors }: GgufExport, signal: AbortSignal): AsyncIterable<Uint8Array> {
  yield header
  for (const tensor of tensors) {
    yield* tensor.chunks(signal)
    const padding = alignedBytes(tensor.bytes) - tensor.bytes
    if (padding > 0) yield new Uint8Array(padding)
  }
}

/** The tensor as it stands in the file; undefined where GGUF models have none such. */
function ggufTensor(
  manifest: Manifest,
  model: BuildableModel,
  tensor: ManifestTensor,
  quantization: ExportQuantization | undefined,
  payloads: PayloadStore,
): TensorStream | undefined {
  const place = placeOf(model, tensor)
  if (!place) {
    if (manifest.format === 'gguf') return storedStream(tensor, tensor.name, payloads)
    throw new DomainError(
      'UNSUPPORTED_FORMAT',
      `tensor ${tensor.name}: has no place in a GGUF ${model.architecture.name} model`,
    )
  }
  if (manifest.format !== 'gguf') {
    // Never read by any program, and llama.cpp refuses tensors that it does not know.
    if (place.inert) return undefined
    // A checkpoint may hold the head beside the embeddings it is tied to; llama.cpp would take it for an untied one.
    if (place.role === 'lm_head' && model.dimensions.tiedEmbeddings) return undefined
  }
  const stream = asGgml(inConvention(manifest, model, tensor, place, 'gguf', payloads))
  return converted(stream, ggufType(stream, place, quantization, manifest.format === 'gguf'))
}

/** llama.cpp multiplies matrices of any type; vectors, and rows that are added, must be float32. */
function ggufType(
  { name, dtype, shape }: TensorStream,
  place: TensorPlace,
  quantization: ExportQuantization | undefined,
  native: boolean,
): string {
  if (shape.length < 2 || place.role === 'position_embed') return native ? dtype : 'F32'
  if (!quantization) {
    if (dtype === 'F64') return 'F32'
    if (isGgmlType(dtype)) return dtype
    throw new DomainError('UNSUPPORTED_FORMAT', `tensor ${name}: ggml has no type ${dtype}`)
  }
  const { blockSize } = ggmlTypeByName(quantization)!
  // As llama.cpp's quantiser does where blocks do not fit a row.
  return shape.at(-1)! % blockSize === 0 ? quantization : 'F16'
}

/**
 * llama.cpp reads sizes by layer into every architecture, but builds the tensors of most from the first layer's; of Llama's kin the one whose
 * layers may differ is `deci`, otherwise the same.
 * @throws UNSUPPORTED_FORMAT where the family has none such
 */
function ggufName({ architecture, dimensions: { perLayer } }: BuildableModel, name: string): string {
  if (!perLayer) return architecture.name
  if (architecture.name === 'llama') return 'deci'
  throw new DomainError(
    'UNSUPPORTED_FORMAT',
    `${name}: its layers have different numbers of heads or widths; GGUF can say that for llama models only, and no other format that is written here can for ${architecture.name}`,
    { field: ['input', 'format'] },
  )
}

/** `<architecture>.*`: what llama.cpp and our own reader take the dimensions from. */
function dimensionEntries(
  { architecture, dimensions: d }: BuildableModel,
  name: string,
  scaling: [string, GgufEntry | undefined][],
): [string, GgufEntry][] {
  /** One number, or one for each layer. */
  const sizes = (key: keyof LayerSizes): GgufEntry =>
    d.perLayer ? { i32s: d.perLayer.map(layer => layer[key]) } : { u32: d[key] }
  const rotary = architecture.positions === 'rotary'
  const epsilon = architecture.norm === 'rms' ? 'attention.layer_norm_rms_epsilon' : 'attention.layer_norm_epsilon'
  const entries: [string, GgufEntry | undefined][] = [
    ['vocab_size', { u32: d.vocabularySize }],
    ['context_length', { u32: d.contextLength }],
    ['embedding_length', { u32: d.hiddenSize }],
    ['block_count', { u32: d.layerCount }],
    ['feed_forward_length', sizes('intermediateSize')],
    ['attention.head_count', sizes('attentionHeadCount')],
    ['attention.head_count_kv', sizes('keyValueHeadCount')],
    ['attention.key_length', { u32: d.headSize }],
    ['attention.value_length', { u32: d.headSize }],
    [epsilon, { f32: d.normEpsilon }],
    ['attention.sliding_window', d.slidingWindow === undefined ? undefined : { u32: d.slidingWindow }],
    ['rope.dimension_count', rotary ? { u32: d.headSize } : undefined],
    ['rope.freq_base', rotary ? { f32: d.ropeTheta } : undefined],
    ...(rotary ? scaling : []),
  ]
  return entries.flatMap(([key, entry]) => (entry ? [[`${name}.${key}`, entry]] : []))
}

const scalingType = ({ ropeScaling }: ResolvedDimensions) =>
  String(ropeScaling?.rope_type ?? ropeScaling?.type ?? 'default')

/**
 * Linear scaling is a number; Llama 3's is a tensor (`ropeFactors`), as llama.cpp's converter writes it. GGUF sources' own keys go on as they
 * came, whatever they mean.
 * @throws UNSUPPORTED_ARCHITECTURE where a source of another format states a scaling that is not known here
 */
function scalingEntries(
  { format }: Manifest,
  { architecture, dimensions: d }: BuildableModel,
  source: Record<string, unknown>,
): [string, GgufEntry | undefined][] {
  const type = scalingType(d)
  if (format !== 'gguf' && architecture.positions === 'rotary') ropeFrequencies(d)
  if (type !== 'linear' && !(format === 'gguf' && d.ropeScaling)) return statedScaling(source)
  const { factor, original_max_position_embeddings: original } = d.ropeScaling ?? {}
  return [
    ['rope.scaling.type', { text: type }],
    ['rope.scaling.factor', typeof factor === 'number' ? { f32: factor } : undefined],
    ['rope.scaling.original_context_length', typeof original === 'number' ? { u32: original } : undefined],
    ...statedScaling(source),
  ]
}

/** What else a GGUF source says of its scaling (YaRN's and LongRoPE's numbers). @throws UNSUPPORTED_FORMAT naming the key */
function statedScaling(source: Record<string, unknown>): [string, GgufEntry][] {
  const prefix = `${source['general.architecture']}.`
  return Object.entries(source)
    .filter(([key]) => key.startsWith(`${prefix}rope.scaling.`))
    .map(([key, value]) => [key.slice(prefix.length), scalingEntry(key, value)])
}

/** In the type that llama.cpp reads the key in. */
function scalingEntry(key: string, value: unknown): GgufEntry {
  if (typeof value === 'string') return { text: value }
  if (typeof value === 'boolean') return { bool: value }
  if (typeof value === 'number') return key.endsWith('.original_context_length') ? { u32: value } : { f32: value }
  throw new DomainError('UNSUPPORTED_FORMAT', `GGUF metadata ${key}: is ${JSON.stringify(value)}, expected one value`)
}

/**
 * `rope_freqs.weight` [head size / 2]: what the plain frequencies are divided by.
 * @throws UNSUPPORTED_FORMAT where GGUF models of the family have no such tensor
 */
function ropeFactors(manifest: Manifest, { architecture, dimensions: d }: BuildableModel): TensorStream | undefined {
  if (manifest.format === 'gguf' || scalingType(d) !== 'llama3') return undefined
  if (!architecture.tensors.some(place => place.role === 'rope_factors'))
    throw new DomainError(
      'UNSUPPORTED_FORMAT',
      `RoPE scaling "llama3": GGUF can say it for llama models only, not for ${architecture.name}; SAFETENSORS can`,
      { field: ['input', 'format'] },
    )
  const scaled = ropeFrequencies(d)
  const factors = Float32Array.from(plainRopeFrequencies(d), (f, i) => f / scaled[i]!)
  return {
    name: 'rope_freqs.weight',
    dtype: 'F32',
    shape: [factors.length],
    bytes: factors.byteLength,
    async *chunks() {
      yield new Uint8Array(factors.buffer)
    },
  }
}

/** Metadata of a GGUF source; empty for others. */
async function sourceMetadata(manifest: Manifest, payloads: PayloadStore): Promise<Record<string, unknown>> {
  if (manifest.format !== 'gguf' || !manifest.sourceConfig) return {}
  return parseJsonObject(await payloads.get(manifest.sourceConfig), 'GGUF metadata')
}

/** `tokenizer.ggml.pre`, where the source has it. */
const sourceRule = ({ 'tokenizer.ggml.pre': rule }: Record<string, unknown>) =>
  typeof rule === 'string' ? rule : undefined
