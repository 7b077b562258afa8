// The one list of architectures, and what can be asked of it: tensor name -> place, place -> name, is a manifest runnable.
import { DomainError } from '../../lib/errors.js'
import type { Manifest, ManifestTensor, TensorComponent } from '../../lib/manifest.js'
import {
  type Architecture,
  type Format,
  type LayerSizes,
  layerDimensions,
  type ResolvedDimensions,
  type TensorPlace,
} from './architecture.js'
import { gemma } from './gemma.js'
import { gpt2 } from './gpt2.js'
import { llama } from './llama.js'
import { qwen2 } from './qwen2.js'
import { qwen3 } from './qwen3.js'

export const architectures: readonly Architecture[] = [llama, qwen2, qwen3, gemma, gpt2]

/** The architecture behind a Hugging Face `model_type` or a GGUF `general.architecture`; undefined where unknown. */
export const findArchitecture = (name: string): Architecture | undefined =>
  architectures.find(a => a.aliases.includes(name))

/** What a config.json asks for beyond what the architecture does, as `field value`; empty where all of it is understood. */
export function unsupportedSettings(architecture: string, config: Record<string, unknown>): string[] {
  const understood = findArchitecture(architecture)?.understood ?? {}
  const others = Object.entries(understood)
    .filter(
      ([field, values]) => config[field] !== undefined && config[field] !== null && !values.includes(config[field]),
    )
    .map(([field]) => `${field} ${JSON.stringify(config[field]).slice(0, 100)}`)
  const kinds = new Set(Array.isArray(config.layer_types) ? config.layer_types : [])
  return kinds.size > 1 ? [...others, `layer_types ${JSON.stringify([...kinds]).slice(0, 100)}`] : others
}

export interface TensorDescription {
  role?: string
  layerIndex: number | null
  component: TensorComponent
}

/** Role, layer and component of a tensor; names of unknown architectures are guessed from common patterns, without a role. */
export function describeTensor(architecture: string, format: Format, tensorName: string): TensorDescription {
  const known = findArchitecture(architecture)
  for (const place of known?.tensors ?? []) {
    for (const template of place.names[format]) {
      const layerIndex = matchName(template, tensorName)
      if (layerIndex === undefined) continue
      const role = layerIndex === null ? place.role : `layers.${layerIndex}.${place.role}`
      return { role, layerIndex, component: place.component }
    }
  }
  return { layerIndex: guessLayer(tensorName), component: guessComponent(tensorName) }
}

/** Layer index of a name that fits the template (null for templates without one); undefined where it does not fit. */
function matchName(template: string, name: string): number | null | undefined {
  const [before, after] = template.split('{layer}') as [string, string?]
  if (after === undefined) return name === template ? null : undefined
  if (!name.startsWith(before) || !name.endsWith(after)) return undefined
  const digits = name.slice(before.length, name.length - after.length)
  return /^(0|[1-9]\d{0,3})$/.test(digits) ? Number(digits) : undefined
}

function guessLayer(name: string): number | null {
  const match = /(?:^|\.)(?:layers?|h|blk|blocks?|resblocks)\.(\d{1,4})(?:\.|$)/.exec(name)
  return match ? Number(match[1]) : null
}

/** The first pattern that fits wins: norms come first because `post_attention_layernorm` names attention too. */
const componentPatterns: [RegExp, TensorComponent][] = [
  [/norm|(^|[._])ln(_?\d+|_f|_[a-z]+)?([._]|$)/, 'NORM'],
  [/attn|attention|(^|\.)(q|k|v|o|qkv)_proj/, 'ATTENTION'],
  [/mlp|ffn|feed_forward|(^|[._])fc\d?([._]|$)|experts|(gate|up|down)_proj/, 'FEED_FORWARD'],
  [/embed|embd|embedding|(^|\.)wte|(^|\.)wpe/, 'EMBEDDING'],
  [/lm_head|^output\.|embed_out/, 'LM_HEAD'],
]
const guessComponent = (name: string): TensorComponent =>
  componentPatterns.find(([pattern]) => pattern.test(name.toLowerCase()))?.[1] ?? 'OTHER'

/** Splits `layers.3.q` into its layer and the role within it. */
export function parseRole(role: string): { layerIndex: number | null; role: string } {
  const match = /^layers\.(\d+)\.(.+)$/.exec(role)
  return match ? { layerIndex: Number(match[1]), role: match[2]! } : { layerIndex: null, role }
}

/** The same role in another layer: what re-indexing does. */
export function roleInLayer(role: string, layerIndex: number): string {
  const parsed = parseRole(role)
  return parsed.layerIndex === null ? role : `layers.${layerIndex}.${parsed.role}`
}

/** Name of a role (`layers.3.q`) in a format's convention. Throws UNSUPPORTED_ARCHITECTURE where either is unknown. */
export function tensorName(architecture: string, format: Format, role: string): string {
  const { layerIndex, role: within } = parseRole(role)
  const place = requireArchitecture(architecture).tensors.find(
    t => t.role === within && t.perLayer === (layerIndex !== null),
  )
  const template = place?.names[format][0]
  if (!template) {
    throw new DomainError('UNSUPPORTED_ARCHITECTURE', `${architecture} has no ${format} name for the role "${role}"`)
  }
  return layerIndex === null ? template : template.replace('{layer}', String(layerIndex))
}

export function requireArchitecture(name: string): Architecture {
  const architecture = findArchitecture(name)
  if (architecture) return architecture
  const known = architectures.flatMap(a => a.aliases).join(', ')
  const what =
    name === 'unknown'
      ? 'No config.json beside the weights (or in it no model_type; in a GGUF file no general.architecture), so the architecture is unknown'
      : `Architecture "${name}" is not known here`
  throw new DomainError('UNSUPPORTED_ARCHITECTURE', `${what}; running, analysing and building know: ${known}`)
}

export interface BuildableModel {
  architecture: Architecture
  dimensions: ResolvedDimensions
  /** Tensors by role (`embed`, `layers.3.q`) without the inert ones, checked: every required one is there and has the expected shape. */
  tensors: ReadonlyMap<string, ManifestTensor>
  /** Roles (as in `tensors`) of linear weights that are stored as [in, out]; all others are [out, in]. */
  inputFirst: ReadonlySet<string>
  /** Added to the stored weights of norms. */
  normOffset: number
}

/**
 * A manifest as something that can be run. Throws UNSUPPORTED_ARCHITECTURE (unknown family or setting, unstated dimension),
 * MISSING_TENSOR or SHAPE_MISMATCH, naming what is missing and the numbers.
 */
export function checkBuildable(manifest: Manifest): BuildableModel {
  const architecture = requireArchitecture(manifest.architecture)
  if (manifest.unsupported?.length) {
    throw new DomainError(
      'UNSUPPORTED_ARCHITECTURE',
      `The model's configuration asks for what is not done here: ${manifest.unsupported.join(', ')}`,
    )
  }
  const inert = new Set(architecture.tensors.filter(place => place.inert).map(place => place.role))
  const tensors = new Map<string, ManifestTensor>()
  for (const tensor of manifest.tensors) {
    const role = tensor.role ?? describeTensor(manifest.architecture, manifest.format, tensor.name).role
    if (role && !inert.has(parseRole(role).role)) tensors.set(role, tensor)
  }
  const dimensions = resolveDimensions(manifest, architecture, tensors)
  const inputFirst = new Set<string>()
  for (const place of architecture.tensors) {
    const count = place.perLayer ? dimensions.layerCount : 1
    for (let layer = 0; layer < count; layer++) {
      checkTensor(manifest, place, layer, tensors, dimensions)
      if (isInputFirst(place, manifest.format)) inputFirst.add(roleOf(place, layer))
    }
  }
  const normOffset = architecture.normOffset?.[manifest.format] ?? 0
  return { architecture, dimensions, tensors, inputFirst, normOffset }
}

const roleOf = (place: TensorPlace, layer: number) => (place.perLayer ? `layers.${layer}.${place.role}` : place.role)

export const isInputFirst = (place: TensorPlace, format: Format) => place.inputFirst?.includes(format) ?? false

function checkTensor(
  manifest: Manifest,
  place: TensorPlace,
  layer: number,
  tensors: Map<string, ManifestTensor>,
  dimensions: ResolvedDimensions,
): void {
  const role = roleOf(place, layer)
  const tensor = tensors.get(role)
  if (!tensor) {
    if (place.presence === 'optional' || (place.presence === 'tied' && dimensions.tiedEmbeddings)) return
    const name = tensorName(manifest.architecture, manifest.format, role)
    throw new DomainError('MISSING_TENSOR', `tensor ${name} (${role}) is missing; ${manifest.architecture} needs it`)
  }
  const outputFirst = place.shape(place.perLayer ? layerDimensions(dimensions, layer) : dimensions)
  const expected = isInputFirst(place, manifest.format) ? outputFirst.toReversed() : outputFirst
  if (tensor.shape.length !== expected.length || tensor.shape.some((size, axis) => size !== expected[axis])) {
    throw new DomainError(
      'SHAPE_MISMATCH',
      `tensor ${tensor.name}: shape [${tensor.shape.join(', ')}], expected [${expected.join(', ')}]`,
    )
  }
}

function resolveDimensions(
  manifest: Manifest,
  architecture: Architecture,
  tensors: Map<string, ManifestTensor>,
): ResolvedDimensions {
  const d = { ...architecture.defaults(manifest.dimensions), ...stated(manifest.dimensions) }
  const need = (value: number | undefined, name: string): number => {
    if (value !== undefined) return value
    throw new DomainError('UNSUPPORTED_ARCHITECTURE', `The model does not state its ${name}; nothing can be built`)
  }
  const hiddenSize = need(d.hiddenSize ?? tensors.get('embed')?.shape[1], 'hiddenSize')
  const attentionHeadCount = need(d.attentionHeadCount, 'attentionHeadCount')
  const keyValueHeadCount = d.keyValueHeadCount ?? attentionHeadCount
  const headSize = d.headSize ?? hiddenSize / attentionHeadCount
  if (attentionHeadCount % keyValueHeadCount !== 0 || !Number.isInteger(headSize) || headSize % 2 !== 0) {
    throw new DomainError(
      'SHAPE_MISMATCH',
      `${attentionHeadCount} query heads of size ${headSize} over ${keyValueHeadCount} key/value heads: ` +
        'query heads must be a multiple of key/value heads and the head size even',
    )
  }
  if (d.perLayer) checkLayerSizes(d.perLayer, d.layerCount)
  if (d.layerCount === 0)
    throw new DomainError('UNSUPPORTED_ARCHITECTURE', 'The model has 0 layers; nothing can be built')
  return {
    layerCount: need(d.layerCount, 'layerCount'),
    hiddenSize,
    intermediateSize: need(d.intermediateSize, 'intermediateSize'),
    attentionHeadCount,
    keyValueHeadCount,
    headSize,
    vocabularySize: need(d.vocabularySize ?? tensors.get('embed')?.shape[0], 'vocabularySize'),
    contextLength: d.contextLength ?? 2048,
    normEpsilon: need(d.normEpsilon, 'normEpsilon'),
    ropeTheta: d.ropeTheta ?? usualRopeTheta,
    ropeLayout: d.ropeLayout ?? architecture.ropeLayout[manifest.format],
    ropeScaling: d.ropeScaling,
    slidingWindow: d.slidingWindow,
    tiedEmbeddings: d.tiedEmbeddings ?? !tensors.has('lm_head'),
    perLayer: d.perLayer,
  }
}

/** @throws SHAPE_MISMATCH */
function checkLayerSizes(sizes: readonly LayerSizes[], layerCount: number) {
  if (sizes.length !== layerCount)
    throw new DomainError('SHAPE_MISMATCH', `Sizes of ${sizes.length} layers are given, the model has ${layerCount}`)
  sizes.forEach(({ attentionHeadCount, keyValueHeadCount }, layer) => {
    if (attentionHeadCount % keyValueHeadCount === 0) return
    throw new DomainError(
      'SHAPE_MISMATCH',
      `layer ${layer}: ${attentionHeadCount} query heads over ${keyValueHeadCount} key/value heads, expected a multiple`,
    )
  })
}

/** What every family means that leaves it unsaid (Su et al. 2021). */
const usualRopeTheta = 10000

/** Without the keys whose value is undefined, which would hide a default. */
const stated = <T extends object>(value: T): T =>
  Object.fromEntries(Object.entries(value).filter(([, v]) => v !== undefined)) as T
