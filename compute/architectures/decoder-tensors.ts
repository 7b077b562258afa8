// Tensor places that most decoder families share (Llama's names): each family's file says what it adds or leaves out.
import type { ResolvedDimensions, TensorPlace } from './architecture.js'

export const queryRows = (d: ResolvedDimensions) => d.attentionHeadCount * d.headSize
export const keyRows = (d: ResolvedDimensions) => d.keyValueHeadCount * d.headSize
export const embeddingShape = (d: ResolvedDimensions) => [d.vocabularySize, d.hiddenSize]
export const hiddenShape = (d: ResolvedDimensions) => [d.hiddenSize]
export const headShape = (d: ResolvedDimensions) => [d.headSize]

export type LayerTensor = [
  role: string,
  component: TensorPlace['component'],
  hf: string,
  gguf: string,
  shape: TensorPlace['shape'],
  extra?: Partial<TensorPlace>,
]

/** Norms, q, k, v, o and a gated feed-forward block, without biases. */
export const gatedLayer: readonly LayerTensor[] = [
  ['attn_norm', 'NORM', 'input_layernorm.weight', 'attn_norm.weight', hiddenShape],
  ['q', 'ATTENTION', 'self_attn.q_proj.weight', 'attn_q.weight', d => [queryRows(d), d.hiddenSize], { rotated: true }],
  ['k', 'ATTENTION', 'self_attn.k_proj.weight', 'attn_k.weight', d => [keyRows(d), d.hiddenSize], { rotated: true }],
  ['v', 'ATTENTION', 'self_attn.v_proj.weight', 'attn_v.weight', d => [keyRows(d), d.hiddenSize]],
  ['o', 'ATTENTION', 'self_attn.o_proj.weight', 'attn_output.weight', d => [d.hiddenSize, queryRows(d)]],
  ['mlp_norm', 'NORM', 'post_attention_layernorm.weight', 'ffn_norm.weight', hiddenShape],
  ['gate', 'FEED_FORWARD', 'mlp.gate_proj.weight', 'ffn_gate.weight', d => [d.intermediateSize, d.hiddenSize]],
  ['up', 'FEED_FORWARD', 'mlp.up_proj.weight', 'ffn_up.weight', d => [d.intermediateSize, d.hiddenSize]],
  ['down', 'FEED_FORWARD', 'mlp.down_proj.weight', 'ffn_down.weight', d => [d.hiddenSize, d.intermediateSize]],
]

/** RMSNorms of each head's query and key (Qwen 3). */
export const headNorms: readonly LayerTensor[] = [
  ['q_norm', 'NORM', 'self_attn.q_norm.weight', 'attn_q_norm.weight', headShape],
  ['k_norm', 'NORM', 'self_attn.k_norm.weight', 'attn_k_norm.weight', headShape],
]

/** The biases beside the weights of these roles. */
export const biasesOf = (
  tensors: readonly LayerTensor[],
  roles: readonly string[],
  presence: TensorPlace['presence'] = 'required',
): LayerTensor[] =>
  tensors
    .filter(([role]) => roles.includes(role))
    .map(([role, component, hf, gguf, shape, extra]) => [
      `${role}_bias`,
      component,
      hf.replace(/weight$/, 'bias'),
      gguf.replace(/weight$/, 'bias'),
      d => shape(d).slice(0, 1),
      { ...(extra?.rotated ? { rotated: true } : {}), presence },
    ])

/** Tensors of one layer, under the prefixes that checkpoints use; base models saved without their head lack `model.`. */
export const layerPlaces = (
  tensors: readonly LayerTensor[],
  prefixes: readonly string[] = ['model.layers.{layer}.', 'layers.{layer}.'],
): TensorPlace[] =>
  tensors.map(([role, component, hf, gguf, shape, extra]) => ({
    role,
    component,
    perLayer: true,
    names: { safetensors: prefixes.map(prefix => prefix + hf), gguf: [`blk.{layer}.${gguf}`] },
    shape,
    presence: 'required',
    ...extra,
  }))

export const wholePlace = (
  role: string,
  component: TensorPlace['component'],
  safetensors: string[],
  gguf: string[],
  shape: TensorPlace['shape'],
  presence: TensorPlace['presence'] = 'required',
): TensorPlace => ({ role, component, perLayer: false, names: { safetensors, gguf }, shape, presence })

export const embedding = wholePlace(
  'embed',
  'EMBEDDING',
  ['model.embed_tokens.weight', 'embed_tokens.weight'],
  ['token_embd.weight'],
  embeddingShape,
)
export const finalNorm = wholePlace(
  'final_norm',
  'NORM',
  ['model.norm.weight', 'norm.weight'],
  ['output_norm.weight'],
  hiddenShape,
)
export const head = wholePlace('lm_head', 'LM_HEAD', ['lm_head.weight'], ['output.weight'], embeddingShape, 'tied')

/** Divisors of the RoPE frequencies (Llama 3 scaling baked into GGUF files). */
export const ropeFactors = wholePlace(
  'rope_factors',
  'OTHER',
  [],
  ['rope_freqs.weight'],
  d => [d.headSize / 2],
  'optional',
)

/** config.json fields under the names that Llama and most families after it use. */
export const decoderConfig = (d: ResolvedDimensions, roles: ReadonlySet<string>): Record<string, unknown> => ({
  hidden_size: d.hiddenSize,
  intermediate_size: d.intermediateSize,
  num_hidden_layers: d.layerCount,
  num_attention_heads: d.attentionHeadCount,
  num_key_value_heads: d.keyValueHeadCount,
  head_dim: d.headSize,
  vocab_size: d.vocabularySize,
  max_position_embeddings: d.contextLength,
  hidden_act: 'silu',
  rms_norm_eps: d.normEpsilon,
  rope_theta: d.ropeTheta,
  ...(d.ropeScaling ? { rope_scaling: d.ropeScaling } : {}),
  tie_word_embeddings: !roles.has('lm_head'),
})
