// `model.export`: the original files where the model is as it came, else a Hugging Face folder, a GGUF file or an ONNX graph of its tensors.
import { DomainError } from '../../lib/errors.js'
import type { Manifest } from '../../lib/manifest.js'
import { isQuantized } from '../formats/ggml-types.js'
import { readManifest } from '../formats/manifest.js'
import { writeSafetensorsHeader } from '../formats/safetensors.js'
import type { ExportQuantization, JobInput } from '../pool/job-types.js'
import { checkedPayloads } from './checked-payloads.js'
import { type AdapterExport, adapterBase, planAdapter } from './export-adapter.js'
import { auxiliaryFiles } from './export-config.js'
import { writeExport } from './export-folder.js'
import { type GgufExport, ggufBytes, ggufChunks, planGguf } from './export-gguf.js'
import { genaiConfig, type OnnxExport, onnxBytes, onnxChunks, planOnnx, transformersJsConfig } from './export-onnx.js'
import { exportTensors } from './export-tensors.js'
import type { Handler, HandlerContext } from './handler.js'
import { type CardSubject, cardName, modelCard, publicName } from './model-card.js'
import { type FloatType, inFloatType, isFloatType, parentType } from './parent-type.js'
import { restoreFile } from './restore-file.js'
import type { TensorStream } from './tensor-streams.js'

type WriteFile = (name: string, chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>) => Promise<void>

const unsupported = (message: string, field: string) =>
  new DomainError('UNSUPPORTED_FORMAT', message, { field: ['input', field] })

/** What a format's files hold beside what is asked for. */
interface Export {
  input: JobInput<'model.export'>
  manifest: Manifest
  /** Type of all matrices; undefined: as stored. */
  type: FloatType | ExportQuantization | undefined
  /** With payloads that are checked as they are read. */
  context: HandlerContext
}

/** Each plans what can be refused before the folder is made. */
const writers: Record<
  JobInput<'model.export'>['format'],
  (what: Export) => Promise<{ write: (write: WriteFile) => Promise<void>; notes?: string[] }>
> = { SAFETENSORS: safetensorsExport, GGUF: ggufExport, ONNX: onnxExport, PEFT: adapterExport }

export const exportModel: Handler<'model.export'> = async (input, context) => {
  const manifest = await readManifest(context.payloads, input.manifest)
  const checked = { ...context, payloads: checkedPayloads(context.payloads, manifest) }
  const { quantization } = input
  const type = quantization === 'PARENT' ? await parentType(manifest, input.name, context.payloads) : quantization
  const { write, notes = [] } = await writers[input.format]({ input, manifest, type, context: checked })
  const files = await writeExport(context.dataFolder, context.jobId, write)
  return { files, ...(notes.length > 0 ? { notes } : {}) }
}

async function safetensorsExport({ input, manifest, type, context }: Export) {
  const { name } = input
  if (type !== undefined && !isFloatType(type)) {
    throw unsupported(
      `SafeTensors files hold plain numbers: quantization ${type} is offered for GGUF; without it tensors are written as stored`,
      'quantization',
    )
  }
  if (manifest.dimensions.perLayer) {
    throw unsupported(
      `${name}: its layers have different numbers of heads or widths (key/value heads ${manifest.dimensions.perLayer.map(l => l.keyValueHeadCount).join(', ')}), and config.json has one number for all of them; GGUF can say it, for llama models`,
      'format',
    )
  }
  if (manifest.format === 'safetensors' && manifest.sourceFiles && type === undefined)
    return {
      async write(write: WriteFile) {
        await restoreAll(manifest, write, context)
        const own = manifest.sourceFiles?.some(file => file.name === cardName)
        await writeCard(write, cardOf(input, manifest, manifest.tensors), own ? 'model-card.md' : cardName)
      },
    }
  const stored = exportTensors(manifest, context.payloads)
  const tensors = type === undefined ? stored : stored.map(tensor => inFloatType(tensor, type))
  const notes = [...unpackedNotes(manifest), ...refusedNotes(manifest)]
  return { write: (write: WriteFile) => convert(input, manifest, tensors, notes, write, context), notes }
}

async function ggufExport({ input, manifest, type, context }: Export) {
  const { name, facts } = input
  if (manifest.format === 'gguf' && manifest.sourceFiles && type === undefined)
    return { write: (write: WriteFile) => restoreAll(manifest, write, context) }
  const plan = await planGguf(manifest, name, type, context.payloads, { hash: input.manifest, facts })
  return { write: (write: WriteFile) => writeGguf(name, plan, write, context), notes: plan.notes }
}

async function adapterExport({ input, manifest, type, context }: Export) {
  if (type !== undefined) throw unsupported(`Adapters are written as they were trained, not in ${type}`, 'quantization')
  const before = await adapterBase(manifest, input.facts?.lineage.slice(1) ?? [], context.payloads)
  const adapter = planAdapter(manifest, input.name, before ? publicName(before) : undefined, context.payloads)
  return { write: (write: WriteFile) => writeAdapter(adapter, write, context) }
}

async function onnxExport({ input, manifest, type, context }: Export) {
  if (type === 'BF16')
    throw unsupported('ONNX graphs are written with weights in F32, F16 or blocks, not BF16', 'quantization')
  const { payloads, signal } = context
  const plan = await planOnnx(manifest, input.name, type, payloads)
  const notes = onnxNotes(manifest, plan)
  const write = async (write: WriteFile) => {
    const chunks = counted(onnxChunks(plan, signal), context, onnxBytes(plan), { bytes: 0 })
    await write(plan.dataPath, chunks)
    await write(plan.graphPath, [plan.graph])
    const added = { 'transformers.js_config': transformersJsConfig(plan) }
    for (const [file, bytes] of await auxiliaryFiles(manifest, plan.written, payloads, added))
      await write(file, [bytes])
    await write('genai_config.json', [Buffer.from(`${JSON.stringify(genaiConfig(manifest, plan), null, 2)}\n`)])
    await writeCard(write, cardOf(input, manifest, plan.written, notes, 'transformers.js'))
  }
  return { write, notes }
}

const onnxNotes = ({ tokenizer }: Manifest, { variant, unpacked }: OnnxExport) => [
  'Open with transformers.js (this folder as the model) or onnxruntime-genai (`genai_config.json`); keys and values are float32.',
  'Rows of a batch that are shorter than others are padded on the right.',
  ...(tokenizer?.addBos
    ? [`Prompts begin with token ${tokenizer.bosTokenId}; the tokenizer of onnxruntime-genai leaves it to its caller.`]
    : []),
  ...(variant.startsWith('q')
    ? ['Matrices are codes with float32 scales; activations are rounded to 8 bits before they are multiplied by them.']
    : []),
  ...(unpacked > 0 ? [`${unpacked} tensors: ${unpackedNote}`] : []),
]
function unpackedNotes({ tensors }: Manifest): string[] {
  const count = tensors.filter(t => isQuantized(t.dtype)).length
  return count > 0 ? [`${count} tensors: ${unpackedNote}`] : []
}
const unpackedNote = 'blocks of codes are written out as plain numbers: the same weights in more bytes.'

/** transformers (5.24) checks this of Llama's configuration, of no other family here, also where `head_dim` says how wide heads are. */
function refusedNotes({
  architecture,
  dimensions: { hiddenSize, attentionHeadCount, slidingWindow },
}: Manifest): string[] {
  if (
    architecture !== 'llama' ||
    slidingWindow ||
    !hiddenSize ||
    !attentionHeadCount ||
    hiddenSize % attentionHeadCount === 0
  )
    return []
  return [
    `transformers refuses Llama models whose hidden_size (${hiddenSize}) is no multiple of their heads (${attentionHeadCount}); llama.cpp opens the GGUF export.`,
  ]
}

/** A file name out of any model name. */
const fileName = (name: string) => name.replace(/[^A-Za-z0-9._-]+/g, '-').replace(/^[-.]+|[-.]+$/g, '') || 'model'

async function writeGguf(name: string, plan: GgufExport, write: WriteFile, context: HandlerContext) {
  const chunks = counted(ggufChunks(plan, context.signal), context, ggufBytes(plan), { bytes: 0 })
  // The same ending twice says nothing: models are often named after the file they came from.
  const base = fileName(name)
    .replace(/\.gguf$/i, '')
    .replace(new RegExp(`\\.${plan.label}$`, 'i'), '')
  await write(`${base}.${plan.label}.gguf`, chunks)
}

async function writeAdapter({ config, tensors, header }: AdapterExport, write: WriteFile, context: HandlerContext) {
  const counter = { bytes: 0 }
  const total = tensors.reduce((sum, { bytes }) => sum + bytes, 0)
  const all = async function* () {
    yield header
    for (const tensor of tensors) yield* counted(tensor.chunks(context.signal), context, total, counter)
  }
  await write('adapter_model.safetensors', all())
  await write('adapter_config.json', [Buffer.from(`${JSON.stringify(config, null, 2)}\n`)])
}

/** Reports bytes as they are written, and stops where the job was cancelled. */
async function* counted(
  chunks: AsyncIterable<Uint8Array>,
  context: HandlerContext,
  total: number,
  counter: { bytes: number },
) {
  for await (const chunk of chunks) {
    context.signal.throwIfAborted()
    yield chunk
    counter.bytes += chunk.length
    context.progress({ stage: 'tensors', completed: counter.bytes, total, unit: 'bytes' })
  }
}

async function restoreAll(manifest: Manifest, write: WriteFile, context: HandlerContext) {
  const files = manifest.sourceFiles ?? []
  const total = files.reduce((sum, file) => sum + file.bytes, 0)
  const counter = { bytes: 0 }
  for (const file of files)
    await write(file.name, counted(restoreFile(context.payloads, manifest, file), context, total, counter))
}

function cardOf(
  { name, manifest: manifestHash, facts }: JobInput<'model.export'>,
  manifest: Manifest,
  tensors: CardSubject['tensors'],
  notes: string[] = [],
  library: CardSubject['library'] = 'transformers',
): CardSubject | undefined {
  return facts && { name, manifest, manifestHash, facts, library, tensors, notes }
}

async function writeCard(write: WriteFile, card: CardSubject | undefined, file: string = cardName) {
  if (card) await write(file, [Buffer.from(modelCard(card))])
}

async function convert(
  input: JobInput<'model.export'>,
  manifest: Manifest,
  tensors: readonly TensorStream[],
  notes: string[],
  write: WriteFile,
  context: HandlerContext,
) {
  const { payloads, signal } = context
  const header = writeSafetensorsHeader(tensors)
  const counter = { bytes: 0 }
  const total = tensors.reduce((sum, t) => sum + t.bytes, 0)
  const all = async function* () {
    yield header
    for (const tensor of tensors) yield* counted(tensor.chunks(signal), context, total, counter)
  }
  await write('model.safetensors', all())
  for (const [file, bytes] of await auxiliaryFiles(manifest, tensors, payloads)) await write(file, [bytes])
  await writeCard(write, cardOf(input, manifest, tensors, notes))
}
