import { describe, expect, it } from 'vitest'
import { expandRanges, extractLayers, parameterCountOf, toRanges } from '../../../../compute/surgery/extract-layers.js'
import { type Manifest, manifestSchema } from '../../../../lib/manifest.js'
import { picoManifest } from './pico-manifest.js'

const parentHash = 'f'.repeat(64)
const refusal = (run: () => unknown) => {
  try {
    run()
  } catch (error) {
    return error as { code?: string; message: string }
  }
  return undefined
}

describe('expandRanges', () => {
  it.each([
    [[{ from: 0, to: 3 }], [0, 1, 2]],
    [
      [
        { from: 0, to: 2 },
        { from: 4, to: 5 },
      ],
      [0, 1, 4],
    ],
    [
      [
        { from: 3, to: 5 },
        { from: 0, to: 1 },
      ],
      [3, 4, 0],
    ],
    [
      [
        { from: 0, to: 3 },
        { from: 2, to: 4 },
      ],
      [0, 1, 2, 2, 3],
    ],
  ])('%j keeps layers %j', (ranges, layers) => {
    expect(expandRanges(ranges, 5)).toEqual(layers)
    expect(toRanges(layers)).toEqual(ranges)
  })

  it.each([
    [[], 'keeps no layers'],
    [[{ from: 2, to: 2 }], '[2, 2) is empty; the model has 5 layers'],
    [[{ from: 3, to: 1 }], '[3, 1) is empty; the model has 5 layers'],
    [[{ from: 3, to: 6 }], "[3, 6) goes beyond the model's 5 layers"],
    [[{ from: -1, to: 2 }], '[-1, 2) must be whole numbers from 0'],
    [[{ from: 0.5, to: 2 }], '[0.5, 2) must be whole numbers from 0'],
  ])('refuses %j', (ranges, message) => {
    const error = refusal(() => expandRanges(ranges, 5))
    expect(error?.code).toBe('INVALID_RECIPE')
    expect(error?.message).toContain(message)
  })
})

describe('extractLayers', () => {
  it.each(['safetensors', 'gguf'] as const)('renumbers the names, roles and indices of a %s model', format => {
    const parent = picoManifest({ format, layerCount: 12 })
    const student = extractLayers(parent, [0, 10, 11], parentHash)
    expect(student.tensors.map(t => t.name)).toEqual(picoManifest({ format, layerCount: 3 }).tensors.map(t => t.name))
    expect(student.tensors.map(t => t.role)).toEqual(picoManifest({ format, layerCount: 3 }).tensors.map(t => t.role))
    expect(new Set(student.tensors.map(t => t.layerIndex))).toEqual(new Set([null, 0, 1, 2]))
  })

  it('points at the payloads of the kept layers in the asked order', () => {
    const parent = picoManifest({ layerCount: 4 })
    const student = extractLayers(parent, [3, 1], parentHash)
    const payload = (m: Manifest, role: string) => m.tensors.find(t => t.role === role)?.payload
    for (const role of ['q', 'down', 'mlp_norm']) {
      expect(payload(student, `layers.0.${role}`)).toBe(payload(parent, `layers.3.${role}`))
      expect(payload(student, `layers.1.${role}`)).toBe(payload(parent, `layers.1.${role}`))
    }
    expect(payload(student, 'embed')).toBe(payload(parent, 'embed'))
  })

  it('counts parameters exactly and says where it comes from', () => {
    const parent = picoManifest({ layerCount: 6 })
    const student = extractLayers(parent, [0, 2, 5], parentHash)
    expect(student.parameterCount).toBe(picoManifest({ layerCount: 3 }).parameterCount)
    expect(parameterCountOf(parent, [0, 2, 5])).toBe(student.parameterCount)
    expect(student.dimensions).toEqual({ ...parent.dimensions, layerCount: 3 })
    expect(student.parent).toEqual({ manifest: parentHash, layers: [0, 2, 5] })
  })

  it('counts a layer that is used twice twice, and shares its payloads', () => {
    const parent = picoManifest({ layerCount: 4 })
    const student = extractLayers(parent, [0, 1, 1, 3], parentHash)
    expect(student.parameterCount).toBe(parent.parameterCount)
    expect(parameterCountOf(parent, [0, 1, 1, 3])).toBe(parent.parameterCount)
    const payload = (role: string) => student.tensors.find(t => t.role === role)?.payload
    expect(payload('layers.2.q')).toBe(payload('layers.1.q'))
    expect(student.tensors.map(t => t.name)).toEqual(parent.tensors.map(t => t.name))
    expect(student.parent).toEqual({ manifest: parentHash, layers: [0, 1, 1, 3] })
  })

  describe('of several models', () => {
    const parent = picoManifest({ layerCount: 4 })
    const otherHash = 'e'.repeat(64)
    /** Other payloads, and names without the prefix. */
    const other: Manifest = {
      ...parent,
      tensors: parent.tensors.map(t => ({
        ...t,
        name: t.name.replace(/^model\./, ''),
        payload: t.payload.split('').reverse().join(''),
      })),
    }
    const mix = (second: Manifest) =>
      extractLayers(parent, [0, { layer: 2, manifest: otherHash }, 3], parentHash, new Map([[otherHash, second]]))

    it('takes each layer from its own, under the parent’s names', () => {
      const student = mix(other)
      const payload = (m: Manifest, role: string) => m.tensors.find(t => t.role === role)?.payload
      expect(payload(student, 'layers.1.q')).toBe(payload(other, 'layers.2.q'))
      expect(payload(student, 'layers.2.q')).toBe(payload(parent, 'layers.3.q'))
      expect(payload(student, 'embed')).toBe(payload(parent, 'embed'))
      expect(student.tensors.map(t => t.name)).toEqual(picoManifest({ layerCount: 3 }).tensors.map(t => t.name))
      expect(student.parent).toEqual({
        manifest: parentHash,
        layers: [0, 2, 3],
        sources: [parentHash, otherHash, parentHash],
      })
      expect(student.dimensions.perLayer).toBeUndefined()
      expect(manifestSchema.parse(student)).toEqual(student)
    })

    describe('in GGUF files with a tensor of RoPE factors', () => {
      const plain = picoManifest({ layerCount: 4, format: 'gguf' })
      const withFactors = (payload: string): Manifest => {
        const place = { role: 'rope_factors', layerIndex: null, component: 'OTHER' } as const
        const tensor = { ...place, name: 'rope_freqs.weight', shape: [4], dtype: 'F32', bytes: 16, payload }
        return { ...plain, tensors: [...plain.tensors, tensor] }
      }
      const [a, b] = ['a'.repeat(64), 'b'.repeat(64)]
      const mixOf = (first: Manifest, second: Manifest) =>
        extractLayers(first, [0, { layer: 2, manifest: otherHash }], parentHash, new Map([[otherHash, second]]))

      it('mixes those whose factors are the same, and keeps them once', () => {
        const student = mixOf(withFactors(a), withFactors(a))
        expect(student.tensors.filter(t => t.role === 'rope_factors').map(t => t.payload)).toEqual([a])
        expect(mixOf(plain, plain).tensors.some(t => t.role === 'rope_factors')).toBe(false)
      })

      it.each([
        ['other', withFactors(a), withFactors(b), `is "${b}", expected "${a}"`],
        ['no', withFactors(a), plain, `is "absent", expected "${a}"`],
        ['unexpected', plain, withFactors(b), `is "${b}", expected "absent"`],
      ])('refuses layers of a model with %s factors', (_, first, second, message) => {
        const error = refusal(() => mixOf(first, second))
        expect(error).toMatchObject({ code: 'INVALID_RECIPE' })
        expect(error?.message).toContain(`their tensor of RoPE factors ${message}`)
      })
    })

    it.each([
      [{ ...other, dimensions: { ...other.dimensions, ropeTheta: 5e5 } }, 'ropeTheta is 500000, expected 10000'],
      [{ ...other, dimensions: { ...other.dimensions, normEpsilon: 1e-6 } }, 'normEpsilon is 0.000001'],
      [picoManifest({ layerCount: 4, format: 'gguf' }), 'file format is "gguf", expected "safetensors"'],
    ])('%#: refuses layers that do not fit', (second, message) => {
      const error = refusal(() => mix(second as Manifest))
      expect(error).toMatchObject({ code: 'INVALID_RECIPE' })
      expect(error?.message).toContain(message)
    })
  })

  it('keeps tokenizer, template, licence and configuration and drops the original files', () => {
    const parent = picoManifest({ layerCount: 2 })
    const student = extractLayers(parent, [1], parentHash)
    const { tokenizer, chatTemplate, license, sourceConfig } = parent
    expect(student).toMatchObject({ tokenizer, chatTemplate, license, sourceConfig })
    expect(parent.sourceFiles).toBeDefined()
    expect(student.sourceFiles).toBeUndefined()
    expect(manifestSchema.parse(student)).toEqual(student)
  })

  it('keeps names without the model. prefix in their convention', () => {
    const parent = picoManifest({ layerCount: 3 })
    const bare = { ...parent, tensors: parent.tensors.map(t => ({ ...t, name: t.name.replace(/^model\./, '') })) }
    expect(extractLayers(bare, [2], parentHash).tensors.map(t => t.name)).toContain('layers.0.self_attn.q_proj.weight')
  })

  it('refuses a layer that the model does not have', () => {
    const error = refusal(() => extractLayers(picoManifest({ layerCount: 4 }), [0, 4], parentHash))
    expect(error).toMatchObject({ code: 'INVALID_RECIPE' })
    expect(error?.message).toContain('[4, 5)')
    expect(error?.message).toContain('4 layers')
  })

  it('refuses an unknown architecture', () => {
    const parent = { ...picoManifest({ layerCount: 2 }), architecture: 'mystery' }
    expect(refusal(() => extractLayers(parent, [0], parentHash))?.code).toBe('UNSUPPORTED_ARCHITECTURE')
  })

  it('refuses a parent that lacks a tensor', () => {
    const parent = picoManifest({ layerCount: 2 })
    const tensors = parent.tensors.filter(t => t.role !== 'layers.1.up')
    const error = refusal(() => extractLayers({ ...parent, tensors }, [0], parentHash))
    expect(error?.code).toBe('MISSING_TENSOR')
    expect(error?.message).toContain('model.layers.1.mlp.up_proj.weight')
  })
})
