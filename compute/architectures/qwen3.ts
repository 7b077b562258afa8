// The Qwen 3 family (dense models): Llama's layer with an RMSNorm of every head's query and key before RoPE, and a head size of its own.
import type { Architecture } from './architecture.js'
import {
  biasesOf,
  decoderConfig,
  embedding,
  finalNorm,
  gatedLayer,
  head,
  headNorms,
  layerPlaces,
} from './decoder-tensors.js'

export const qwen3: Architecture = {
  name: 'qwen3',
  aliases: ['qwen3'],
  tensors: [
    embedding,
    ...layerPlaces([...gatedLayer, ...headNorms, ...biasesOf(gatedLayer, ['q', 'k', 'v', 'o'], 'optional')]),
    finalNorm,
    head,
  ],
  norm: 'rms',
  positions: 'rotary',
  ropeLayout: { safetensors: 'half', gguf: 'half' },
  activation: 'silu',
  understood: { hidden_act: ['silu'], use_sliding_window: [false] },
  defaults: () => ({ normEpsilon: 1e-6, headSize: 128 }),
  huggingFaceConfig: (d, roles) => ({
    architectures: ['Qwen3ForCausalLM'],
    model_type: 'qwen3',
    ...decoderConfig(d, roles),
    attention_bias: roles.has('layers.0.q_bias'),
  }),
}
