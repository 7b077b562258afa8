// The llama family: Llama, SmolLM2, TinyLlama, Mistral-shaped models; tied or untied heads, grouped-query attention.
import type { Architecture, ResolvedDimensions, TensorPlace } from './architecture.js'

const queryRows = (d: ResolvedDimensions) => d.attentionHeadCount * d.headSize
const keyRows = (d: ResolvedDimensions) => d.keyValueHeadCount * d.headSize

type LayerTensor = [
  role: string,
  component: TensorPlace['component'],
  hf: string,
  gguf: string,
  shape: TensorPlace['shape'],
  extra?: Partial<TensorPlace>,
]

const layerTensors: LayerTensor[] = [
  ['attn_norm', 'NORM', 'input_layernorm.weight', 'attn_norm.weight', d => [d.hiddenSize]],
  ['q', 'ATTENTION', 'self_attn.q_proj.weight', 'attn_q.weight', d => [queryRows(d), d.hiddenSize], { rotated: true }],
  ['k', 'ATTENTION', 'self_attn.k_proj.weight', 'attn_k.weight', d => [keyRows(d), d.hiddenSize], { rotated: true }],
  ['v', 'ATTENTION', 'self_attn.v_proj.weight', 'attn_v.weight', d => [keyRows(d), d.hiddenSize]],
  ['o', 'ATTENTION', 'self_attn.o_proj.weight', 'attn_output.weight', d => [d.hiddenSize, queryRows(d)]],
  ['mlp_norm', 'NORM', 'post_attention_layernorm.weight', 'ffn_norm.weight', d => [d.hiddenSize]],
  ['gate', 'FEED_FORWARD', 'mlp.gate_proj.weight', 'ffn_gate.weight', d => [d.intermediateSize, d.hiddenSize]],
  ['up', 'FEED_FORWARD', 'mlp.up_proj.weight', 'ffn_up.weight', d => [d.intermediateSize, d.hiddenSize]],
  ['down', 'FEED_FORWARD', 'mlp.down_proj.weight', 'ffn_down.weight', d => [d.hiddenSize, d.intermediateSize]],
]

// Llama checkpoints with `attention_bias` or `mlp_bias` carry these beside the weights.
const biases: LayerTensor[] = layerTensors
  .filter(([, component]) => component !== 'NORM')
  .map(([role, component, hf, gguf, shape, extra]) => [
    `${role}_bias`,
    component,
    hf.replace('.weight', '.bias'),
    gguf.replace('.weight', '.bias'),
    d => shape(d).slice(0, 1),
    { ...extra, presence: 'optional' },
  ])

const perLayer = ([role, component, hf, gguf, shape, extra]: LayerTensor): TensorPlace => ({
  role,
  component,
  perLayer: true,
  // Base models saved without their head have no `model.` prefix.
  names: { safetensors: [`model.layers.{layer}.${hf}`, `layers.{layer}.${hf}`], gguf: [`blk.{layer}.${gguf}`] },
  shape,
  presence: 'required',
  ...extra,
})

const whole = (
  role: string,
  component: TensorPlace['component'],
  safetensors: string[],
  gguf: string[],
  shape: TensorPlace['shape'],
  presence: TensorPlace['presence'] = 'required',
): TensorPlace => ({ role, component, perLayer: false, names: { safetensors, gguf }, shape, presence })

const embeddingShape = (d: ResolvedDimensions) => [d.vocabularySize, d.hiddenSize]

export const llama: Architecture = {
  name: 'llama',
  aliases: ['llama', 'mistral', 'smollm'],
  tensors: [
    whole(
      'embed',
      'EMBEDDING',
      ['model.embed_tokens.weight', 'embed_tokens.weight'],
      ['token_embd.weight'],
      embeddingShape,
    ),
    ...layerTensors.map(perLayer),
    ...biases.map(perLayer),
    // Written by early transformers versions; a function of ropeTheta, never read.
    perLayer([
      'rotary_inverse_frequencies',
      'OTHER',
      'self_attn.rotary_emb.inv_freq',
      'attn_rot_embd',
      d => [d.headSize / 2],
      { presence: 'optional' },
    ]),
    whole('final_norm', 'NORM', ['model.norm.weight', 'norm.weight'], ['output_norm.weight'], d => [d.hiddenSize]),
    whole('lm_head', 'LM_HEAD', ['lm_head.weight'], ['output.weight'], embeddingShape, 'tied'),
    // Divisors of the RoPE frequencies (Llama 3 scaling baked into GGUF files).
    whole('rope_factors', 'OTHER', [], ['rope_freqs.weight'], d => [d.headSize / 2], 'optional'),
  ],
  ropeLayout: { safetensors: 'half', gguf: 'interleaved' },
  defaults: { normEpsilon: 1e-5, ropeTheta: 10000 },
}
