// GGUF metadata -> architecture, dimensions, licence, chat template (keys: ggml/docs/gguf.md).
import type { Dimensions } from '../../lib/manifest.js'
import type { GgufMetadata, GgufValue } from './gguf.js'
import {
  checkTemplate,
  maximumLayers,
  nameField,
  positiveField,
  shortText,
  textField,
  wholeField,
} from './read-fields.js'

/** Lists longer than this (vocabulary, merges) are left out of the JSON form. */
const maximumListInJson = 1024

const isList = (value: GgufValue): value is Exclude<GgufValue, string | number | bigint | boolean> =>
  typeof value === 'object'

/** A per-layer list stands for one number where all layers agree. */
function plain(value: GgufValue): unknown {
  if (!isList(value)) return value
  const items: unknown[] = Array.from(value as ArrayLike<unknown>)
  return items.length > 0 && items.every(item => item === items[0]) ? items[0] : undefined
}

const fieldsOf = (metadata: GgufMetadata, prefix: string): Record<string, unknown> => {
  const fields: Record<string, unknown> = {}
  for (const [key, value] of metadata) {
    if (key.startsWith(prefix)) fields[key.slice(prefix.length)] = plain(value)
  }
  return fields
}

export const ggufArchitecture = (metadata: GgufMetadata): string =>
  nameField(
    { 'general.architecture': metadata.get('general.architecture') },
    ['general.architecture'],
    'GGUF metadata',
  ) ?? 'unknown'

/**
 * Dimensions as far as the metadata states them.
 * @param layersSeen layers counted from tensor names, used where the metadata is silent
 * @param tiedEmbeddings whether the file has no tensor `output.weight`
 * @throws DomainError INVALID_MODEL_FILE naming the key and its value
 */
export function ggufDimensions(
  metadata: GgufMetadata,
  file: string,
  layersSeen: number,
  tiedEmbeddings: boolean,
): Dimensions {
  const fields = fieldsOf(metadata, `${ggufArchitecture(metadata)}.`)
  const whole = (...names: string[]) => wholeField(fields, names, file)
  const tokens = metadata.get('tokenizer.ggml.tokens')
  const scalingType = textField(fields, ['rope.scaling.type'])
  const ropeScaling: Record<string, unknown> | undefined =
    scalingType && scalingType !== 'none'
      ? {
          rope_type: scalingType,
          factor: positiveField(fields, ['rope.scaling.factor'], file),
          original_max_position_embeddings: whole('rope.scaling.original_context_length'),
        }
      : undefined
  const layerCount = wholeField(fields, ['block_count'], file, 0, maximumLayers) ?? layersSeen
  const { perLayer, ...sizes } = layerSizes(metadata, fields, file, layerCount)
  return {
    layerCount,
    hiddenSize: whole('embedding_length'),
    ...sizes,
    headSize: whole('attention.key_length', 'rope.dimension_count'),
    vocabularySize: whole('vocab_size') ?? (Array.isArray(tokens) && tokens.length > 0 ? tokens.length : undefined),
    contextLength: whole('context_length'),
    normEpsilon: positiveField(fields, ['attention.layer_norm_rms_epsilon', 'attention.layer_norm_epsilon'], file),
    ropeTheta: positiveField(fields, ['rope.freq_base'], file),
    ropeScaling,
    slidingWindow: whole('attention.sliding_window'),
    tiedEmbeddings,
    perLayer,
  }
}

/** Keys that hold one number, or a list of one for each layer. */
const layerKeys = {
  intermediateSize: 'feed_forward_length',
  attentionHeadCount: 'attention.head_count',
  keyValueHeadCount: 'attention.head_count_kv',
} as const

/**
 * Sizes of layers: as numbers of the whole model where all layers agree, else the largest and a list. Nothing where a layer has no
 * heads or no feed-forward block at all, which is another architecture than ours.
 */
function layerSizes(
  metadata: GgufMetadata,
  fields: Record<string, unknown>,
  file: string,
  layerCount: number,
): Pick<Dimensions, keyof typeof layerKeys | 'perLayer'> {
  const keys = Object.keys(layerKeys) as (keyof typeof layerKeys)[]
  const one = (key: keyof typeof layerKeys) => wholeField(fields, [layerKeys[key]], file)
  const lists = keys.map(key => {
    const value = metadata.get(`${ggufArchitecture(metadata)}.${layerKeys[key]}`)
    const list = value !== undefined && isList(value) ? Array.from(value as ArrayLike<unknown>, Number) : undefined
    return list && list.length === layerCount && list.every(n => Number.isInteger(n) && n > 0) ? list : undefined
  })
  const [widths, heads, groups] = keys.map(
    (key, i) => lists[i] ?? new Array<number | undefined>(layerCount).fill(one(key)),
  )
  const whole = { intermediateSize: one('intermediateSize'), attentionHeadCount: one('attentionHeadCount') }
  if (keys.every((key, i) => lists[i] === undefined || one(key) !== undefined))
    return { ...whole, keyValueHeadCount: one('keyValueHeadCount') }
  const perLayer: NonNullable<Dimensions['perLayer']> = []
  for (let layer = 0; layer < layerCount; layer++) {
    const [intermediateSize, attentionHeadCount] = [widths![layer], heads![layer]]
    if (intermediateSize === undefined || attentionHeadCount === undefined) return whole
    perLayer.push({ intermediateSize, attentionHeadCount, keyValueHeadCount: groups![layer] ?? attentionHeadCount })
  }
  const most = (key: keyof typeof layerKeys) => Math.max(...perLayer.map(own => own[key]))
  return {
    intermediateSize: most('intermediateSize'),
    attentionHeadCount: most('attentionHeadCount'),
    keyValueHeadCount: most('keyValueHeadCount'),
    perLayer,
  }
}

/**
 * Texts about the model that the metadata carries.
 * @throws DomainError INVALID_MODEL_FILE for a chat template of absurd length
 */
export function ggufDescription(metadata: GgufMetadata, file: string) {
  const fields = Object.fromEntries(['general.license', 'general.name'].map(key => [key, metadata.get(key)]))
  return {
    license: shortText(fields, ['general.license']),
    chatTemplate: checkTemplate(textField({ v: metadata.get('tokenizer.chat_template') }, ['v']), file),
    sourceName: shortText(fields, ['general.name']),
  }
}

/** The metadata as JSON for people and later readers; long lists are given by their length, integers above 2^53 as text. */
export function ggufMetadataJson(metadata: GgufMetadata): Record<string, unknown> {
  const json: Record<string, unknown> = Object.create(null)
  for (const [key, value] of metadata) json[key] = toJson(value)
  return json
}

function toJson(value: GgufValue): unknown {
  if (typeof value === 'bigint') return value.toString()
  if (!isList(value)) return value
  if (value.length > maximumListInJson) return { length: value.length }
  return Array.from(value as ArrayLike<GgufValue>, toJson)
}
