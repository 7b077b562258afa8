// The llama family: Llama, SmolLM2, TinyLlama, Mistral (a sliding window is a dimension); tied or untied heads, grouped-query attention.
import type { Architecture } from './architecture.js'
import {
  biasesOf,
  decoderConfig,
  embedding,
  finalNorm,
  gatedLayer,
  head,
  layerPlaces,
  ropeFactors,
} from './decoder-tensors.js'

export const llama: Architecture = {
  name: 'llama',
  // `deci`: what llama.cpp calls Llamas whose layers differ in heads and widths.
  aliases: ['llama', 'mistral', 'smollm', 'deci'],
  tensors: [
    embedding,
    ...layerPlaces([
      ...gatedLayer,
      // Checkpoints with `attention_bias` or `mlp_bias` carry these.
      ...biasesOf(gatedLayer, ['q', 'k', 'v', 'o', 'gate', 'up', 'down'], 'optional'),
      // Written by early transformers versions; a function of ropeTheta, never read.
      [
        'rotary_inverse_frequencies',
        'OTHER',
        'self_attn.rotary_emb.inv_freq',
        'attn_rot_embd',
        d => [d.headSize / 2],
        { presence: 'optional', inert: true },
      ],
    ]),
    finalNorm,
    head,
    ropeFactors,
  ],
  norm: 'rms',
  positions: 'rotary',
  // llama.cpp's converter permutes the rows of q and k for this family only.
  ropeLayout: { safetensors: 'half', gguf: 'interleaved' },
  activation: 'silu',
  understood: { hidden_act: ['silu'] },
  defaults: () => ({ normEpsilon: 1e-5 }),
  huggingFaceConfig: (d, roles) => ({
    architectures: [d.slidingWindow ? 'MistralForCausalLM' : 'LlamaForCausalLM'],
    model_type: d.slidingWindow ? 'mistral' : 'llama',
    ...decoderConfig(d, roles),
    ...(d.slidingWindow ? { sliding_window: d.slidingWindow } : {}),
    attention_bias: roles.has('layers.0.q_bias'),
    mlp_bias: roles.has('layers.0.up_bias'),
  }),
}
