import { describe, expect, test } from 'vitest'
import {
  checkBuildable,
  describeTensor,
  findArchitecture,
  roleInLayer,
  tensorName,
} from '../../../../compute/architectures/registry.js'
import type { Manifest } from '../../../../lib/manifest.js'

const payload = 'a'.repeat(64)

function picoManifest(
  overrides: Partial<Manifest> = {},
  change: (t: Manifest['tensors']) => Manifest['tensors'] = t => t,
) {
  const shapes: [string, number[]][] = [
    ['model.embed_tokens.weight', [64, 32]],
    ['model.norm.weight', [32]],
    ...[0, 1].flatMap((l): [string, number[]][] => [
      [`model.layers.${l}.input_layernorm.weight`, [32]],
      [`model.layers.${l}.self_attn.q_proj.weight`, [32, 32]],
      [`model.layers.${l}.self_attn.k_proj.weight`, [16, 32]],
      [`model.layers.${l}.self_attn.v_proj.weight`, [16, 32]],
      [`model.layers.${l}.self_attn.o_proj.weight`, [32, 32]],
      [`model.layers.${l}.post_attention_layernorm.weight`, [32]],
      [`model.layers.${l}.mlp.gate_proj.weight`, [48, 32]],
      [`model.layers.${l}.mlp.up_proj.weight`, [48, 32]],
      [`model.layers.${l}.mlp.down_proj.weight`, [32, 48]],
    ]),
  ]
  const tensors = shapes.map(([name, shape]) => ({
    name,
    shape,
    dtype: 'F32',
    bytes: shape.reduce((a, b) => a * b, 4),
    payload,
    ...describeTensor('llama', 'safetensors', name),
  }))
  const manifest: Manifest = {
    manifestVersion: 1,
    format: 'safetensors',
    architecture: 'llama',
    dimensions: {
      layerCount: 2,
      hiddenSize: 32,
      intermediateSize: 48,
      attentionHeadCount: 2,
      keyValueHeadCount: 1,
      vocabularySize: 64,
    },
    parameterCount: 0,
    tensors: change(tensors),
    ...overrides,
  }
  return manifest
}

describe('tensor names', () => {
  test.each([
    ['llama', 'safetensors', 'model.layers.3.self_attn.q_proj.weight', 'layers.3.q', 3, 'ATTENTION'],
    ['mistral', 'safetensors', 'model.layers.11.mlp.down_proj.weight', 'layers.11.down', 11, 'FEED_FORWARD'],
    ['llama', 'safetensors', 'model.layers.0.post_attention_layernorm.weight', 'layers.0.mlp_norm', 0, 'NORM'],
    ['llama', 'safetensors', 'lm_head.weight', 'lm_head', null, 'LM_HEAD'],
    ['llama', 'gguf', 'blk.29.attn_output.weight', 'layers.29.o', 29, 'ATTENTION'],
    ['llama', 'gguf', 'token_embd.weight', 'embed', null, 'EMBEDDING'],
    ['llama', 'gguf', 'output_norm.weight', 'final_norm', null, 'NORM'],
    ['llama', 'gguf', 'blk.1.attn_q.bias', 'layers.1.q_bias', 1, 'ATTENTION'],
  ] as const)('%s %s %s is %s', (architecture, format, name, role, layerIndex, component) => {
    expect(describeTensor(architecture, format, name)).toEqual({ role, layerIndex, component })
    expect(tensorName(architecture, format, role)).toBe(name)
  })

  test.each([
    ['transformer.h.3.attn.c_attn.weight', 3, 'ATTENTION'],
    ['transformer.h.3.ln_1.weight', 3, 'NORM'],
    ['transformer.h.12.mlp.c_fc.bias', 12, 'FEED_FORWARD'],
    ['transformer.wte.weight', null, 'EMBEDDING'],
    ['transformer.ln_f.weight', null, 'NORM'],
    ['blk.7.ffn_gate_exps.weight', 7, 'FEED_FORWARD'],
    ['encoder.layer.2.attention.self.query.weight', 2, 'ATTENTION'],
    ['rnn_1.recurrent_kernel', null, 'OTHER'],
    ['embedding.embeddings', null, 'EMBEDDING'],
    ['lm_head.weight', null, 'LM_HEAD'],
  ] as const)('guesses %s of an unknown architecture', (name, layerIndex, component) => {
    expect(describeTensor('no-such', 'safetensors', name)).toEqual({ layerIndex, component })
  })

  test('a name that only looks like a template gets no role', () => {
    expect(describeTensor('llama', 'gguf', 'blk.01.attn_q.weight').role).toBeUndefined()
    expect(describeTensor('llama', 'safetensors', 'model.layers.x.mlp.up_proj.weight').role).toBeUndefined()
  })

  test('a role is re-indexed into another layer', () => {
    expect(roleInLayer('layers.7.q', 2)).toBe('layers.2.q')
    expect(roleInLayer('embed', 2)).toBe('embed')
  })
})

describe('checkBuildable', () => {
  test('fills in what the source may leave unsaid', () => {
    const { dimensions, tensors } = checkBuildable(picoManifest())
    expect(dimensions).toMatchObject({
      headSize: 16,
      normEpsilon: 1e-5,
      ropeTheta: 10000,
      ropeLayout: 'half',
      tiedEmbeddings: true,
    })
    expect(tensors.get('layers.1.down')?.name).toBe('model.layers.1.mlp.down_proj.weight')
  })

  test('an unknown architecture is named', () => {
    expect(() => checkBuildable(picoManifest({ architecture: 'no-such' }))).toThrow(/"no-such" is not known/)
    const unknown = picoManifest({ architecture: 'unknown' })
    expect(() => checkBuildable(unknown)).toThrow(/^No config\.json beside the weights .* know: llama, /)
    expect(findArchitecture('no-such')).toBeUndefined()
  })

  test('a missing tensor is named with its role', () => {
    const manifest = picoManifest({}, tensors => tensors.filter(t => t.role !== 'layers.1.up'))
    expect(() => checkBuildable(manifest)).toThrow(
      'tensor model.layers.1.mlp.up_proj.weight (layers.1.up) is missing; llama needs it',
    )
  })

  test('an untied head must be there', () => {
    const manifest = picoManifest()
    manifest.dimensions.tiedEmbeddings = false
    expect(() => checkBuildable(manifest)).toThrow('tensor lm_head.weight (lm_head) is missing')
  })

  test('a wrong shape is named with both shapes', () => {
    const manifest = picoManifest({}, tensors =>
      tensors.map(t => (t.role === 'layers.0.k' ? { ...t, shape: [15, 32] } : t)),
    )
    expect(() => checkBuildable(manifest)).toThrow(
      'tensor model.layers.0.self_attn.k_proj.weight: shape [15, 32], expected [16, 32]',
    )
  })

  test('an unstated dimension is named', () => {
    const manifest = picoManifest()
    manifest.dimensions.attentionHeadCount = undefined
    expect(() => checkBuildable(manifest)).toThrow(/attentionHeadCount/)
  })

  test('query heads must be a multiple of key/value heads', () => {
    const manifest = picoManifest()
    manifest.dimensions.attentionHeadCount = 4
    manifest.dimensions.keyValueHeadCount = 3
    expect(() => checkBuildable(manifest)).toThrow(/4 query heads of size 8 over 3/)
  })
})
