// config.json, generation_config.json and tokenizer files of an exported model, as transformers reads them.
import type { Manifest, ManifestTokenizer } from '../../lib/manifest.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import { checkBuildable } from '../architectures/registry.js'
import { commonType } from '../formats/common-type.js'
import { parseJsonObject } from '../formats/json-scan.js'
import { readManifest } from '../formats/manifest.js'
import type { TensorStream } from './tensor-streams.js'

type Json = Record<string, unknown>

const torchNames: Record<string, string> = { F64: 'float64', F32: 'float32', F16: 'float16', BF16: 'bfloat16' }

/** What torch calls the type that most parameters have. */
const torchType = (tensors: readonly TensorStream[]) => torchNames[commonType(tensors) ?? 'F32'] ?? 'float32'

/** The shortest decimal that is the same float32: GGUF keeps 1e-05 as 9.999999747378752e-06. */
function shortestFloat32(value: number): number {
  for (let digits = 1; digits < 10; digits++) {
    const short = Number(value.toPrecision(digits))
    if (Math.fround(short) === Math.fround(value)) return short
  }
  return value
}

const endIds = (tokenizer: ManifestTokenizer | undefined) =>
  tokenizer && tokenizer.eosTokenIds.length === 1 ? tokenizer.eosTokenIds[0] : tokenizer?.eosTokenIds

/** Indices in the original model of the layers a student keeps, through all its ancestors. */
async function originalLayers(manifest: Manifest, payloads: PayloadStore): Promise<number[] | undefined> {
  if (!manifest.parent) return undefined
  const { layers, manifest: hash } = manifest.parent
  const above = (await payloads.has(hash))
    ? await originalLayers(await readManifest(payloads, hash), payloads)
    : undefined
  return above ? layers.map(layer => above[layer]!) : layers
}

/** config.json: the source's own with the student's depth, or one written from the dimensions for GGUF sources. */
export async function exportConfig(
  manifest: Manifest,
  tensors: readonly TensorStream[],
  payloads: PayloadStore,
): Promise<Json | undefined> {
  if (manifest.format === 'gguf') return writtenConfig(manifest, tensors)
  if (!manifest.sourceConfig) return undefined
  const config = parseJsonObject(await payloads.get(manifest.sourceConfig), 'config.json')
  // transformers 5 calls it `dtype`.
  config['dtype' in config ? 'dtype' : 'torch_dtype'] = torchType(tensors)
  const layers = await originalLayers(manifest, payloads)
  if (!layers) return config
  const inner = (
    typeof config.text_config === 'object' && config.text_config !== null ? config.text_config : config
  ) as Json
  for (const key of ['num_hidden_layers', 'n_layer', 'num_layers', 'n_layers'])
    if (key in inner) inner[key] = layers.length
  // One entry per layer of the original model (sliding or full attention).
  if (Array.isArray(inner.layer_types)) {
    const types = inner.layer_types as unknown[]
    inner.layer_types = layers.map(layer => types[layer] ?? types[0])
  }
  if (manifest.tensors.some(tensor => tensor.slice)) Object.assign(inner, widthsOf(manifest))
  return config
}

/** What config.json says of heads and widths, where pruning changed them. */
function widthsOf(manifest: Manifest): Json {
  const { architecture, dimensions, tensors } = checkBuildable(manifest)
  const written = architecture.huggingFaceConfig(dimensions, new Set(tensors.keys()))
  const keys = ['num_attention_heads', 'num_key_value_heads', 'head_dim', 'intermediate_size', 'n_inner']
  return Object.fromEntries(keys.filter(key => key in written).map(key => [key, written[key]]))
}

function writtenConfig(manifest: Manifest, tensors: readonly TensorStream[]): Json {
  const { architecture, dimensions, tensors: byRole } = checkBuildable(manifest)
  const d = {
    ...dimensions,
    normEpsilon: shortestFloat32(dimensions.normEpsilon),
    ropeTheta: shortestFloat32(dimensions.ropeTheta),
  }
  return {
    ...architecture.huggingFaceConfig(d, new Set(byRole.keys())),
    bos_token_id: manifest.tokenizer?.bosTokenId,
    eos_token_id: endIds(manifest.tokenizer),
    pad_token_id: manifest.tokenizer?.padTokenId,
    torch_dtype: torchType(tensors),
  }
}

function exportGenerationConfig(tokenizer: ManifestTokenizer): Json {
  return {
    bos_token_id: tokenizer.bosTokenId,
    eos_token_id: endIds(tokenizer),
    pad_token_id: tokenizer.padTokenId,
  }
}

/** tokenizer_config.json with the chat template in it; written from the manifest where the source had none. */
async function exportTokenizerConfig(
  manifest: Manifest,
  tokenizer: ManifestTokenizer,
  tokenizerJson: Json,
  payloads: PayloadStore,
): Promise<Json> {
  const text = (id: number | undefined) => (id === undefined ? undefined : tokenText(tokenizerJson, id))
  const base: Json = tokenizer.tokenizerConfig
    ? parseJsonObject(await payloads.get(tokenizer.tokenizerConfig), 'tokenizer_config.json')
    : {
        tokenizer_class: 'PreTrainedTokenizerFast',
        bos_token: text(tokenizer.bosTokenId),
        eos_token: text(tokenizer.eosTokenIds[0]),
        pad_token: text(tokenizer.padTokenId),
        unk_token: text(tokenizer.unknownTokenId),
        model_max_length: manifest.dimensions.contextLength,
        clean_up_tokenization_spaces: false,
      }
  return manifest.chatTemplate && !base.chat_template ? { ...base, chat_template: manifest.chatTemplate } : base
}

function tokenText(tokenizerJson: Json, id: number): string | undefined {
  const added = Array.isArray(tokenizerJson.added_tokens) ? tokenizerJson.added_tokens : []
  const found = added.find(t => t?.id === id)?.content
  if (typeof found === 'string') return found
  const vocab = (tokenizerJson.model as Json | undefined)?.vocab
  if (Array.isArray(vocab)) return vocab[id]?.[0]
  return Object.entries((vocab ?? {}) as Record<string, number>).find(([, value]) => value === id)?.[0]
}

const jsonFile = (value: unknown): Uint8Array => Buffer.from(`${JSON.stringify(value, null, 2)}\n`)

/** config.json where there is one, with what is added to it, and the tokenizer's files where there is a tokenizer: name and bytes. */
export async function auxiliaryFiles(
  manifest: Manifest,
  tensors: readonly TensorStream[],
  payloads: PayloadStore,
  added: Json = {},
): Promise<[name: string, bytes: Uint8Array][]> {
  const { tokenizer } = manifest
  const config = await exportConfig(manifest, tensors, payloads)
  const files: [string, Uint8Array][] = config ? [['config.json', jsonFile({ ...config, ...added })]] : []
  if (!tokenizer) return files
  const tokenizerJson = await payloads.get(tokenizer.tokenizerJson)
  const parsed = parseJsonObject(tokenizerJson, 'tokenizer.json')
  const tokenizerConfig = await exportTokenizerConfig(manifest, tokenizer, parsed, payloads)
  return [
    ...files,
    ['generation_config.json', jsonFile(exportGenerationConfig(tokenizer))],
    ['tokenizer.json', tokenizerJson],
    ['tokenizer_config.json', jsonFile(tokenizerConfig)],
  ]
}
