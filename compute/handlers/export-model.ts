// `model.export`: the original files where the model is as it came, else a Hugging Face folder or a GGUF file made of its tensors.
import { DomainError } from '../../lib/errors.js'
import type { Manifest } from '../../lib/manifest.js'
import { isQuantized } from '../formats/ggml-types.js'
import { parseJsonObject } from '../formats/json-scan.js'
import { readManifest } from '../formats/manifest.js'
import { writeSafetensorsHeader } from '../formats/safetensors.js'
import { checkedPayloads } from './checked-payloads.js'
import { type AdapterExport, planAdapter } from './export-adapter.js'
import { exportConfig, exportGenerationConfig, exportTokenizerConfig } from './export-config.js'
import { writeExport } from './export-folder.js'
import { type GgufExport, ggufBytes, ggufChunks, planGguf } from './export-gguf.js'
import { exportTensors } from './export-tensors.js'
import type { Handler, HandlerContext } from './handler.js'
import { type CardSubject, modelCard } from './model-card.js'
import { restoreFile } from './restore-file.js'

type Card = CardSubject | undefined
type WriteFile = (name: string, chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>) => Promise<void>

const unsupported = (message: string, field: string) =>
  new DomainError('UNSUPPORTED_FORMAT', message, { field: ['input', field] })

export const exportModel: Handler<'model.export'> = async (input, context) => {
  const { format, quantization, name } = input
  if (format === 'ONNX') throw unsupported('Export to ONNX is not offered; SAFETENSORS and GGUF are', 'format')
  if ((format === 'SAFETENSORS' || format === 'PEFT') && quantization !== undefined) {
    throw unsupported(
      `SafeTensors files hold plain numbers: quantization ${quantization} is offered for GGUF; without it tensors are written as stored`,
      'quantization',
    )
  }
  const manifest = await readManifest(context.payloads, input.manifest)
  if (format === 'SAFETENSORS' && manifest.dimensions.perLayer) {
    throw unsupported(
      `${name}: its layers have different numbers of heads or widths (key/value heads ${manifest.dimensions.perLayer.map(l => l.keyValueHeadCount).join(', ')}), and config.json has one number for all of them; GGUF can say it, for llama models`,
      'format',
    )
  }
  if (format === 'PEFT') {
    const checked = checkedPayloads(context.payloads, manifest)
    const before = input.facts?.lineage[1]?.name ?? manifest.sourceName ?? name
    const adapter = planAdapter(manifest, name, before, checked)
    return {
      files: await writeExport(context.dataFolder, context.jobId, write => writeAdapter(adapter, write, context)),
    }
  }
  const wanted = format === 'GGUF' ? 'gguf' : 'safetensors'
  const original = manifest.format === wanted && manifest.sourceFiles !== undefined && quantization === undefined
  const checked = { ...context, payloads: checkedPayloads(context.payloads, manifest) }
  const gguf =
    format === 'GGUF' && !original
      ? await planGguf(manifest, name, quantization, checked.payloads, { hash: input.manifest, facts: input.facts })
      : undefined
  const card = (tensors: CardSubject['tensors'], notes?: string[]): Card =>
    input.facts && {
      ...{ name, manifest, manifestHash: input.manifest, facts: input.facts, library: 'transformers' as const },
      ...{ tensors, ...(notes ? { notes } : {}) },
    }
  const files = await writeExport(context.dataFolder, context.jobId, async write => {
    if (gguf) return writeGguf(name, gguf, write, context)
    if (!original) return convert(manifest, write, checked, card)
    await restoreAll(manifest, write, checked)
    const own = manifest.sourceFiles?.some(file => file.name === 'README.md')
    if (format === 'SAFETENSORS') await writeCard(write, card(manifest.tensors), own ? 'model-card.md' : 'README.md')
  })
  return { files }
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

async function writeCard(write: WriteFile, card: Card, file = 'README.md') {
  if (card) await write(file, [Buffer.from(modelCard(card))])
}

async function convert(
  manifest: Manifest,
  write: WriteFile,
  context: HandlerContext,
  card: (tensors: CardSubject['tensors'], notes: string[]) => Card,
) {
  const { payloads, signal } = context
  const tensors = exportTensors(manifest, payloads)
  const header = writeSafetensorsHeader(tensors)
  const counter = { bytes: 0 }
  const total = tensors.reduce((sum, t) => sum + t.bytes, 0)
  const all = async function* () {
    yield header
    for (const tensor of tensors) yield* counted(tensor.chunks(signal), context, total, counter)
  }
  await write('model.safetensors', all())
  const json = (name: string, value: unknown) => write(name, [Buffer.from(`${JSON.stringify(value, null, 2)}\n`)])
  const config = await exportConfig(manifest, tensors, payloads)
  if (config) await json('config.json', config)
  const unpacked = manifest.tensors.some(t => isQuantized(t.dtype))
  const notes = unpacked ? ['Blocks of codes are written out as float32 numbers: the same weights in more bytes.'] : []
  await writeCard(write, card(tensors, notes))
  const { tokenizer } = manifest
  if (!tokenizer) return
  await json('generation_config.json', exportGenerationConfig(tokenizer))
  const tokenizerJson = await payloads.get(tokenizer.tokenizerJson)
  await write('tokenizer.json', [tokenizerJson])
  const parsed = parseJsonObject(tokenizerJson, 'tokenizer.json')
  await json('tokenizer_config.json', await exportTokenizerConfig(manifest, tokenizer, parsed, payloads))
}
