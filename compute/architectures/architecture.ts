// What the engine must know of a model family, as data: its tensors, their names in each convention, places and shapes, and how they are wired.
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
  /** Sizes by layer where layers differ; the fields above are then the largest. */
  perLayer?: readonly LayerSizes[] | undefined
}

/** What may differ from layer to layer. */
export type LayerSizes = Pick<ResolvedDimensions, 'attentionHeadCount' | 'keyValueHeadCount' | 'intermediateSize'>

/** The dimensions as one layer has them. */
export const layerDimensions = (d: ResolvedDimensions, layer: number): ResolvedDimensions => ({
  ...d,
  ...d.perLayer?.[layer],
})

/**
 * A tensor's place. The roles that the graph knows are also what says how the network is built: it does what the model has tensors for.
 * Of the whole model: `embed`, `position_embed` (with `positions: 'learned'`), `final_norm`, `lm_head`, `rope_factors`. Of a layer:
 * `attn_norm`, `q` `k` `v` or `qkv` in one, `q_norm` and `k_norm` (RMSNorm of each head), `o`, `mlp_norm`, `gate` (absent: a feed-forward
 * block without gating), `up`, `down`. Beside each linear layer and each LayerNorm `<role>_bias`.
 */
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
  /** Kept, cut and exported with the model; running it never reads it. */
  inert?: boolean
  /** Formats that store this linear weight turned round, [in, out] (GPT-2's Conv1D). */
  inputFirst?: readonly Format[]
}

export type Activation = 'silu' | 'gelu_tanh'

export interface Architecture {
  name: string
  /** Hugging Face `model_type` and GGUF `general.architecture` values that are this family. */
  aliases: readonly string[]
  tensors: readonly TensorPlace[]
  /** `rms`: RMSNorm; `layer`: LayerNorm, with biases. */
  norm: 'rms' | 'layer'
  /** What is added to stored norm weights before they are used, by format: Gemma's checkpoints hold weight - 1, GGUF files the weight. */
  normOffset?: Partial<Record<Format, number>>
  /** `rotary`: RoPE on q and k; `learned`: the row of `position_embed` is added to the embedding. */
  positions: 'rotary' | 'learned'
  /** RoPE layout of each convention's q/k rows. */
  ropeLayout: Record<Format, 'half' | 'interleaved'>
  activation: Activation
  /** config.json fields that may mean another computation than this one, and their values that mean this one; with others it is not run. */
  understood: Readonly<Record<string, readonly unknown[]>>
  /** Factor of the embedding; absent: 1. */
  embeddingScale?(d: ResolvedDimensions): number
  /** Values that a source may leave unsaid. */
  defaults(stated: Dimensions): Partial<Dimensions>
  /** config.json fields as transformers reads them, for models that came without one; `roles` are the tensors that the model has. */
  huggingFaceConfig(d: ResolvedDimensions, roles: ReadonlySet<string>): Record<string, unknown>
}
