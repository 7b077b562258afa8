// What the engine must know of a model family, as data: its tensors, their names in each convention, places and shapes.
import type { Dimensions, TensorComponent } from '../../lib/manifest.js'

export type Format = 'safetensors' | 'gguf'

/** Dimensions with nothing left open: what graphs are built from. */
export interface ResolvedDimensions {
  layerCount: number
  hiddenSize: number
  intermediateSize: number
  attentionHeadCount: number
  keyValueHeadCount: number
  headSize: number
  vocabularySize: number
  contextLength: number
  normEpsilon: number
  ropeTheta: number
  ropeLayout: 'half' | 'interleaved'
  ropeScaling: Record<string, unknown> | undefined
  /** Tokens a position may look back; undefined: all. */
  slidingWindow: number | undefined
  tiedEmbeddings: boolean
}

export interface TensorPlace {
  /** Role within the layer (`q`) or of the whole model (`embed`). */
  role: string
  component: TensorComponent
  /** One per layer; `{layer}` in the names and the role `layers.<n>.<role>`. */
  perLayer: boolean
  /** Names by convention; the first is the one written on export. */
  names: Record<Format, readonly string[]>
  /** Expected shape, row-major; linear weights are [out, in]. */
  shape(d: ResolvedDimensions): number[]
  /** `tied`: may be absent where another tensor stands in for it; `optional`: the model works without it. */
  presence: 'required' | 'tied' | 'optional'
  /** Rows pair up for RoPE, so their order depends on the format (`ropeLayout`). */
  rotated?: boolean
}

export interface Architecture {
  name: string
  /** Hugging Face `model_type` and GGUF `general.architecture` values that are this family. */
  aliases: readonly string[]
  tensors: readonly TensorPlace[]
  /** RoPE layout of each convention's q/k rows. */
  ropeLayout: Record<Format, 'half' | 'interleaved'>
  /** Values that a source may leave unsaid. */
  defaults: Partial<Dimensions>
}
