// The Qwen 2 family (2, 2.5): Llama's layer with biases on q, k and v; GGUF keeps the rows of q and k as they are.
import type { Architecture } from './architecture.js'
import { biasesOf, decoderConfig, embedding, finalNorm, gatedLayer, head, layerPlaces } from './decoder-tensors.js'

export const qwen2: Architecture = {
  name: 'qwen2',
  aliases: ['qwen2'],
  tensors: [embedding, ...layerPlaces([...gatedLayer, ...biasesOf(gatedLayer, ['q', 'k', 'v'])]), finalNorm, head],
  norm: 'rms',
  positions: 'rotary',
  ropeLayout: { safetensors: 'half', gguf: 'half' },
  activation: 'silu',
  // With a window, its first layers have none (max_window_layers).
  understood: { hidden_act: ['silu'], use_sliding_window: [false] },
  defaults: () => ({ normEpsilon: 1e-6 }),
  huggingFaceConfig: (d, roles) => ({
    architectures: ['Qwen2ForCausalLM'],
    model_type: 'qwen2',
    ...decoderConfig(d, roles),
  }),
}
