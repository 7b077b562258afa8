// The GPT-2 family: LayerNorm with biases, learned positions, q, k and v in one Conv1D, a feed-forward block without gate, tied head.
import type { Architecture, ResolvedDimensions } from './architecture.js'
import { biasesOf, embeddingShape, hiddenShape, type LayerTensor, layerPlaces, wholePlace } from './decoder-tensors.js'

const maskShape = (d: ResolvedDimensions) => [1, 1, d.contextLength, d.contextLength]
/** Hugging Face's Conv1D keeps [in, out]; llama.cpp's converter turns it round. */
const conv1d = { inputFirst: ['safetensors'] } as const

const layer: readonly LayerTensor[] = [
  ['attn_norm', 'NORM', 'ln_1.weight', 'attn_norm.weight', hiddenShape],
  ['qkv', 'ATTENTION', 'attn.c_attn.weight', 'attn_qkv.weight', d => [3 * d.hiddenSize, d.hiddenSize], conv1d],
  ['o', 'ATTENTION', 'attn.c_proj.weight', 'attn_output.weight', d => [d.hiddenSize, d.hiddenSize], conv1d],
  ['mlp_norm', 'NORM', 'ln_2.weight', 'ffn_norm.weight', hiddenShape],
  ['up', 'FEED_FORWARD', 'mlp.c_fc.weight', 'ffn_up.weight', d => [d.intermediateSize, d.hiddenSize], conv1d],
  ['down', 'FEED_FORWARD', 'mlp.c_proj.weight', 'ffn_down.weight', d => [d.hiddenSize, d.intermediateSize], conv1d],
]

/** Early checkpoints were saved without `transformer.`. */
const names = (name: string) => [`transformer.${name}`, name]

export const gpt2: Architecture = {
  name: 'gpt2',
  aliases: ['gpt2'],
  tensors: [
    wholePlace('embed', 'EMBEDDING', names('wte.weight'), ['token_embd.weight'], embeddingShape),
    wholePlace('position_embed', 'EMBEDDING', names('wpe.weight'), ['position_embd.weight'], d => [
      d.contextLength,
      d.hiddenSize,
    ]),
    ...layerPlaces(
      [
        ...layer,
        ...biasesOf(layer, ['attn_norm', 'qkv', 'o', 'mlp_norm', 'up', 'down']),
        // The causal mask and its value, written by early transformers versions; never read.
        ['causal_mask', 'OTHER', 'attn.bias', 'attn_mask', maskShape, { presence: 'optional', inert: true }],
        ['masked_value', 'OTHER', 'attn.masked_bias', 'attn_masked', () => [], { presence: 'optional', inert: true }],
      ],
      names('h.{layer}.'),
    ),
    wholePlace('final_norm', 'NORM', names('ln_f.weight'), ['output_norm.weight'], hiddenShape),
    wholePlace('final_norm_bias', 'NORM', names('ln_f.bias'), ['output_norm.bias'], hiddenShape),
    wholePlace('lm_head', 'LM_HEAD', ['lm_head.weight'], ['output.weight'], embeddingShape, 'tied'),
  ],
  norm: 'layer',
  positions: 'learned',
  ropeLayout: { safetensors: 'half', gguf: 'half' },
  activation: 'gelu_tanh',
  // Three names of one formula.
  understood: {
    activation_function: ['gelu_new', 'gelu_fast', 'gelu_pytorch_tanh'],
    scale_attn_weights: [true],
    scale_attn_by_inverse_layer_idx: [false],
    add_cross_attention: [false],
  },
  defaults: ({ hiddenSize }) => ({
    normEpsilon: 1e-5,
    contextLength: 1024,
    ...(hiddenSize ? { intermediateSize: 4 * hiddenSize } : {}),
  }),
  huggingFaceConfig: (d, roles) => ({
    architectures: ['GPT2LMHeadModel'],
    model_type: 'gpt2',
    n_embd: d.hiddenSize,
    n_inner: d.intermediateSize,
    n_layer: d.layerCount,
    n_head: d.attentionHeadCount,
    n_positions: d.contextLength,
    vocab_size: d.vocabularySize,
    activation_function: 'gelu_new',
    layer_norm_epsilon: d.normEpsilon,
    tie_word_embeddings: !roles.has('lm_head'),
  }),
}
