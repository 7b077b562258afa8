// A pico Llama (2 layers, hidden 32, vocabulary 64) with seeded random weights, written as a model folder that ingests like any other.
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { seededRandom } from '../../compute/inference/sampling.js'

export interface PicoOptions {
  seed?: number
  layers?: number
  hidden?: number
  heads?: number
  keyValueHeads?: number
  intermediate?: number
  vocabulary?: number
  context?: number
  tied?: boolean
  /** Biases on all linear layers but the head. */
  bias?: boolean
  /** Tokens a position may look back, itself included (Mistral). */
  window?: number
}

export interface PicoLlama {
  config: Record<string, unknown>
  /** By Hugging Face name; row-major. */
  tensors: Map<string, { shape: number[]; data: Float32Array }>
}

/** Weights from a normal distribution whose variance keeps activations near 1. */
export function makePicoLlama(options: PicoOptions = {}): PicoLlama {
  const o = {
    seed: 1,
    layers: 2,
    hidden: 32,
    heads: 4,
    keyValueHeads: 2,
    intermediate: 48,
    vocabulary: 64,
    context: 64,
    ...options,
  }
  const tied = options.tied ?? true
  const random = seededRandom(o.seed)
  const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
  const tensors: PicoLlama['tensors'] = new Map()
  const add = (name: string, shape: number[], value: () => number) =>
    tensors.set(name, { shape, data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, value) })
  const matrix = (name: string, rows: number, columns: number) => {
    add(name, [rows, columns], () => normal() / Math.sqrt(columns))
    if (options.bias && name !== 'lm_head.weight') add(name.replace('.weight', '.bias'), [rows], () => normal() / 4)
  }
  const norm = (name: string) => add(`${name}.weight`, [o.hidden], () => 1 + normal() / 10)
  const headSize = o.hidden / o.heads

  add('model.embed_tokens.weight', [o.vocabulary, o.hidden], normal)
  for (let layer = 0; layer < o.layers; layer++) {
    const at = (name: string) => `model.layers.${layer}.${name}.weight`
    norm(`model.layers.${layer}.input_layernorm`)
    matrix(at('self_attn.q_proj'), o.heads * headSize, o.hidden)
    matrix(at('self_attn.k_proj'), o.keyValueHeads * headSize, o.hidden)
    matrix(at('self_attn.v_proj'), o.keyValueHeads * headSize, o.hidden)
    matrix(at('self_attn.o_proj'), o.hidden, o.heads * headSize)
    norm(`model.layers.${layer}.post_attention_layernorm`)
    matrix(at('mlp.gate_proj'), o.intermediate, o.hidden)
    matrix(at('mlp.up_proj'), o.intermediate, o.hidden)
    matrix(at('mlp.down_proj'), o.hidden, o.intermediate)
  }
  norm('model.norm')
  if (!tied) matrix('lm_head.weight', o.vocabulary, o.hidden)
  return {
    tensors,
    config: {
      architectures: ['LlamaForCausalLM'],
      model_type: options.window ? 'mistral' : 'llama',
      sliding_window: options.window ?? null,
      hidden_size: o.hidden,
      intermediate_size: o.intermediate,
      num_hidden_layers: o.layers,
      num_attention_heads: o.heads,
      num_key_value_heads: o.keyValueHeads,
      vocab_size: o.vocabulary,
      max_position_embeddings: o.context,
      rms_norm_eps: 1e-5,
      rope_theta: 10000,
      hidden_act: 'silu',
      tie_word_embeddings: tied,
      bos_token_id: 1,
      eos_token_id: 2,
      torch_dtype: 'float32',
    },
  }
}

/** The bytes of a SafeTensors file. */
export function encodeSafetensors(tensors: PicoLlama['tensors']): Buffer {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } }
  let offset = 0
  for (const [name, { shape, data }] of tensors) {
    header[name] = { dtype: 'F32', shape, data_offsets: [offset, offset + data.byteLength] }
    offset += data.byteLength
  }
  const json = Buffer.from(JSON.stringify(header))
  const padded = Buffer.concat([json, Buffer.alloc((8 - (json.length % 8)) % 8, ' ')])
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(padded.length))
  const bodies = [...tensors.values()].map(({ data }) => Buffer.from(data.buffer, data.byteOffset, data.byteLength))
  return Buffer.concat([length, padded, ...bodies])
}

/** `<unk>`, `<s>`, `</s>`, then one token per character: space, a-z, A-Z, punctuation, digits, as far as the vocabulary goes. */
export function picoTokenizer(vocabulary = 64): Record<string, unknown> {
  const characters = [...'▁abcdefghijklmnopqrstuvwxyz.,?!0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ']
  const special = ['<unk>', '<s>', '</s>']
  const tokens = [...special, ...characters].slice(0, vocabulary)
  while (tokens.length < vocabulary) tokens.push(`<extra_${tokens.length}>`)
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: special.map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
    pre_tokenizer: null,
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [],
      special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] } },
    },
    decoder: {
      type: 'Sequence',
      decoders: [{ type: 'Replace', pattern: { String: '▁' }, content: ' ' }, { type: 'Fuse' }],
    },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: '<unk>',
      fuse_unk: true,
      byte_fallback: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: [],
    },
  }
}

/** Writes a pico Llama as a Hugging Face folder and gives it back. */
export async function writePicoLlama(folder: string, options: PicoOptions = {}): Promise<PicoLlama> {
  const pico = makePicoLlama(options)
  await mkdir(folder, { recursive: true })
  await writeFile(join(folder, 'model.safetensors'), encodeSafetensors(pico.tensors))
  await writeFile(join(folder, 'config.json'), JSON.stringify(pico.config))
  await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(picoTokenizer(options.vocabulary)))
  return pico
}
