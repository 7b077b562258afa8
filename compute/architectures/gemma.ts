// The first Gemma family: Llama's layer with GELU, embeddings scaled by the root of the hidden size, and norms whose weight is stored less 1.
import type { Architecture } from './architecture.js'
import { decoderConfig, embedding, finalNorm, gatedLayer, head, layerPlaces } from './decoder-tensors.js'

export const gemma: Architecture = {
  name: 'gemma',
  aliases: ['gemma'],
  tensors: [embedding, ...layerPlaces(gatedLayer), finalNorm, head],
  norm: 'rms',
  // llama.cpp's converter adds the 1.
  normOffset: { safetensors: 1 },
  positions: 'rotary',
  ropeLayout: { safetensors: 'half', gguf: 'half' },
  activation: 'gelu_tanh',
  // The first releases say `gelu` and mean its tanh form; transformers reads them so.
  understood: {
    hidden_act: ['gelu', 'gelu_pytorch_tanh'],
    hidden_activation: ['gelu_pytorch_tanh'],
    use_bidirectional_attention: [false],
  },
  embeddingScale: d => Math.sqrt(d.hiddenSize),
  defaults: () => ({ normEpsilon: 1e-6, headSize: 256 }),
  huggingFaceConfig: (d, roles) => ({
    architectures: ['GemmaForCausalLM'],
    model_type: 'gemma',
    ...decoderConfig(d, roles),
    hidden_act: 'gelu_pytorch_tanh',
  }),
}
