// Small models of each architecture with golden numbers from transformers (test/fixtures/architectures), their weights made from names alone.

import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { quantize } from '../../compute/formats/quantize.js'
import { encodeSafetensors, picoTokenizer } from './pico-llama.js'
import { type GgufSpec, ggufBytes } from './weight-files.js'

export interface Golden {
  config: Record<string, unknown>
  /** By Hugging Face name: its shape, its GGUF name, and what llama.cpp's converter does to the values. */
  tensors: Record<string, { shape: number[]; gguf: string; change?: 'permute' | 'transpose' | 'add one' }>
  ggufMetadata: Record<string, string | number>
  ids: number[]
  completionStart: number
  /** By position: [vocabulary]. */
  logits: Record<string, number[]>
  /** Summed over ids from completionStart on, in nats. */
  nll: number
  /** 16 tokens after the first completionStart ids. */
  greedy: number[]
  /** With one layer removed: loss, and logits of the last position. */
  skipped: { layer: number; nll: number; logits: number[] }
}

const folder = fileURLToPath(new URL('../fixtures/architectures/', import.meta.url))
export const readGolden = async (name: string): Promise<Golden> =>
  JSON.parse(await readFile(join(folder, `${name}.json`), 'utf8'))

/** Numbers from a 32-bit hash (lowbias32) of the tensor's name and the element's index: the same bits as make_goldens.py's. */
export function goldenWeights(name: string, shape: readonly number[]): Float32Array {
  let seed = 2166136261
  for (const byte of Buffer.from(name)) seed = Math.imul(seed ^ byte, 16777619)
  const isNorm = /norm|ln_\d|ln_f/.test(name)
  const ofBiasOrNorm = name.endsWith('.bias') || isNorm
  const scale = ofBiasOrNorm || !/embed|wte|wpe/.test(name) ? 0.25 : 1
  const mean = isNorm && name.endsWith('.weight') ? 1 : 0
  return Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, index) => {
    let x = (index + seed) >>> 0
    x = Math.imul(x ^ (x >>> 16), 0x7feb352d) >>> 0
    x = Math.imul(x ^ (x >>> 15), 0x846ca68b) >>> 0
    x = (x ^ (x >>> 16)) >>> 0
    return ((x >>> 8) / 2 ** 23 - 1) * scale + mean
  })
}

/** The model as a Hugging Face folder, with a tokenizer of single characters. */
export async function writeGoldenFolder(golden: Golden, to: string): Promise<string> {
  const tensors = new Map(
    Object.entries(golden.tensors).map(([name, { shape }]) => [name, { shape, data: goldenWeights(name, shape) }]),
  )
  await mkdir(to, { recursive: true })
  await writeFile(join(to, 'model.safetensors'), encodeSafetensors(tensors))
  await writeFile(join(to, 'config.json'), JSON.stringify(golden.config))
  await writeFile(join(to, 'tokenizer.json'), JSON.stringify(picoTokenizer(128)))
  return to
}

const typeIds = { F32: 0, Q4_0: 2, Q8_0: 8 }
const storedAs = {
  F32: (data: Float32Array) => Buffer.from(data.buffer, data.byteOffset, data.byteLength),
  Q4_0: (data: Float32Array) => Buffer.from(quantize('Q4_0', data)),
  Q8_0: q8Blocks,
}

/** The model as llama.cpp's converter would write it: in float32, or matrices in blocks of Q8_0. */
export async function writeGoldenGguf(
  golden: Golden,
  to: string,
  matrices: 'F32' | 'Q8_0' | 'Q4_0' = 'F32',
): Promise<string> {
  const { config } = golden
  const headCount = Number(config.num_attention_heads ?? config.n_head)
  const tensors: GgufSpec['tensors'] = []
  const parts: Buffer[] = []
  let offset = 0
  for (const [name, { shape, gguf, change }] of Object.entries(golden.tensors)) {
    const values = goldenWeights(name, shape)
    const heads = name.includes('k_proj') ? Number(config.num_key_value_heads) : headCount
    const data = change === undefined ? values : changes[change](values, shape, heads)
    const own = change === 'transpose' ? shape.toReversed() : shape
    const type = own.length === 2 ? matrices : 'F32'
    tensors.push({ name: gguf, dimensions: own.toReversed(), typeId: typeIds[type], offset })
    const stored = storedAs[type](data)
    const bytes = Buffer.alloc(Math.ceil(stored.length / 32) * 32)
    stored.copy(bytes)
    parts.push(bytes)
    offset += bytes.length
  }
  const vocabulary = Object.keys((picoTokenizer(128).model as { vocab: Record<string, number> }).vocab)
  const metadata: GgufSpec['metadata'] = [
    ...Object.entries(golden.ggufMetadata).map(([key, value]): GgufSpec['metadata'][0] => [
      key,
      typeof value === 'string'
        ? { type: 'string', value }
        : { type: /epsilon|freq_base/.test(key) ? 'f32' : 'u32', value },
    ]),
    ['tokenizer.ggml.model', { type: 'string', value: 'gpt2' }],
    ['tokenizer.ggml.pre', { type: 'string', value: 'gpt-2' }],
    ['tokenizer.ggml.tokens', { type: 'strings', value: vocabulary }],
    ['tokenizer.ggml.merges', { type: 'strings', value: [] }],
    ['tokenizer.ggml.bos_token_id', { type: 'u32', value: 1 }],
    ['tokenizer.ggml.eos_token_id', { type: 'u32', value: 2 }],
  ]
  await mkdir(to, { recursive: true })
  const path = join(to, 'model.gguf')
  await writeFile(path, ggufBytes({ metadata, tensors, alignment: 32, data: Buffer.concat(parts) }))
  return path
}

/** Q8_0: blocks of 32 numbers, a float16 scale and 32 signed bytes. The scale here is 2^-7: exact, and enough for numbers in [-1, 1). */
function q8Blocks(values: Float32Array): Buffer {
  const bytes = Buffer.alloc((values.length / 32) * 34)
  for (let block = 0; block * 32 < values.length; block++) {
    bytes.writeUInt16LE(0x2000, block * 34)
    for (let i = 0; i < 32; i++) {
      const code = Math.round(values[block * 32 + i]! * 128)
      bytes.writeInt8(Math.max(-128, Math.min(127, code)), block * 34 + 2 + i)
    }
  }
  return bytes
}

/** What convert_hf_to_gguf.py does: llama's `permute` of q and k, Conv1D turned round, 1 added to Gemma's norms. */
const changes: Record<
  'permute' | 'transpose' | 'add one',
  (v: Float32Array, shape: number[], heads: number) => Float32Array
> = {
  permute: (values, [rows, columns], heads) => {
    const headSize = rows! / heads
    const changed = new Float32Array(values.length)
    for (let row = 0; row < rows!; row++) {
      const inHead = row % headSize
      const target = row - inHead + (inHead < headSize / 2 ? 2 * inHead : 2 * (inHead - headSize / 2) + 1)
      changed.set(values.subarray(row * columns!, (row + 1) * columns!), target * columns!)
    }
    return changed
  },
  transpose: (values, [rows, columns]) => values.map((_, i) => values[(i % rows!) * columns! + Math.floor(i / rows!)]!),
  'add one': values => values.map(value => value + 1),
}
