// Export: original files byte for byte, and Hugging Face folders for everything else.
import { createHash } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { readManifest, writeManifest } from '../../../../compute/formats/manifest.js'
import { memoryAccess } from '../../../../compute/formats/random-access.js'
import { readSafetensors } from '../../../../compute/formats/safetensors.js'
import { buildStudent } from '../../../../compute/handlers/build-student.js'
import { exportModel } from '../../../../compute/handlers/export-model.js'
import { exportTensors } from '../../../../compute/handlers/export-tensors.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { openModel } from '../../../../compute/inference/model.js'
import type { Manifest } from '../../../../lib/manifest.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { sharedFile, sharedPresent } from '../../../testkit/shared-files.js'
import { ggufBytes, soundGguf } from '../../../testkit/weight-files.js'

let context: TestHandlerContext
let folder: string
beforeEach(async () => {
  context = await handlerContext()
  folder = await mkdtemp(join(tmpdir(), 'source-'))
})
afterEach(async () => {
  await context.dispose()
  await rm(folder, { recursive: true, force: true })
})

const exported = (name: string) => readFile(join(context.dataFolder, 'exports', 'job', name))

test('a GGUF file comes out as it went in, padding included', async () => {
  const data = Buffer.from(soundGguf().data)
  data[29] = 5
  const original = Buffer.concat([ggufBytes({ data }), Buffer.alloc(30)])
  await writeFile(join(folder, 'm.gguf'), original)
  const { manifest } = await ingestModel({ source: folder }, context)
  const { files } = await exportModel({ manifest, name: 'm', format: 'GGUF' }, context)
  expect((await exported('m.gguf')).equals(original)).toBe(true)
  expect(files).toEqual([
    { path: 'job/m.gguf', sizeBytes: original.length, sha256: createHash('sha256').update(original).digest('hex') },
  ])
})

const stories = sharedFile('models', 'stories260K')
describe.runIf(sharedPresent('Export of stories260K', 'models', 'stories260K'))('stories260K', () => {
  test('a SafeTensors folder comes out as it went in', async () => {
    const { manifest } = await ingestModel({ source: stories }, context)
    await exportModel({ manifest, name: 'm', format: 'SAFETENSORS' }, context)
    for (const name of ['model.safetensors', 'config.json', 'tokenizer.json']) {
      expect((await exported(name)).equals(await readFile(join(stories, name))), name).toBe(true)
    }
  })

  test('a student has its own depth, renumbered layers and the parent’s bytes', async () => {
    const { manifest: parent } = await ingestModel({ source: stories }, context)
    const student = await buildStudent(
      {
        parent,
        layers: [
          { from: 0, to: 1 },
          { from: 3, to: 5 },
        ],
      },
      context,
    )
    await exportModel({ manifest: student.manifest, name: 's', format: 'SAFETENSORS' }, context)
    expect(JSON.parse((await exported('config.json')).toString())).toMatchObject({
      num_hidden_layers: 3,
      model_type: 'llama',
    })
    expect(JSON.parse((await exported('generation_config.json')).toString())).toMatchObject({
      bos_token_id: 1,
      eos_token_id: 2,
    })
    expect(JSON.parse((await exported('tokenizer_config.json')).toString()).tokenizer_class).toBe(
      'PreTrainedTokenizerFast',
    )
    const bytes = await exported('model.safetensors')
    const theirs = await readFile(join(stories, 'model.safetensors'))
    const mine = await readSafetensors(memoryAccess(bytes))
    const original = await readSafetensors(memoryAccess(theirs))
    const slice = (from: Buffer, file: typeof mine, name: string) => {
      const t = file.tensors.find(tensor => tensor.name === name)!
      return from.subarray(t.offset, t.offset + t.bytes)
    }
    const part = 'self_attn.q_proj.weight'
    expect(slice(bytes, mine, `model.layers.1.${part}`).equals(slice(theirs, original, `model.layers.3.${part}`))).toBe(
      true,
    )
    expect(mine.tensors.some(t => t.name.includes('layers.3.'))).toBe(false)
  })

  test('a cancelled export leaves no folder', async () => {
    const { manifest } = await ingestModel({ source: stories }, context)
    const signal = AbortSignal.abort()
    await expect(
      exportModel({ manifest, name: 'm', format: 'SAFETENSORS' }, context.withSignal(signal)),
    ).rejects.toThrow()
    expect(await readdir(join(context.dataFolder, 'exports'))).toEqual([])
  })
})

/** One layer, hidden size 4, one head of size 4: q and k rows numbered so that their order shows. */
async function ggufLlama(): Promise<string> {
  const put = async (values: number[]) =>
    (await context.payloads.put([Buffer.from(new Float32Array(values).buffer)])).hash
  const matrix = Array.from({ length: 16 }, (_, i) => i)
  const tensor = async (
    name: string,
    role: string,
    shape: number[],
    layerIndex: number | null,
  ): Promise<Manifest['tensors'][0]> => {
    const count = shape.reduce((a, b) => a * b, 1)
    return {
      name,
      role,
      layerIndex,
      component: 'OTHER',
      shape,
      dtype: 'F32',
      bytes: count * 4,
      payload: await put(matrix.slice(0, count)),
    }
  }
  const square = ['q', 'k', 'v', 'o', 'gate', 'up', 'down']
  const manifest: Manifest = {
    manifestVersion: 1,
    format: 'gguf',
    architecture: 'llama',
    dimensions: {
      layerCount: 1,
      hiddenSize: 4,
      intermediateSize: 4,
      attentionHeadCount: 1,
      keyValueHeadCount: 1,
      headSize: 4,
      vocabularySize: 4,
      contextLength: 16,
      normEpsilon: 9.999999747378752e-6,
      ropeTheta: 10000,
      ropeLayout: 'interleaved',
      tiedEmbeddings: true,
    },
    parameterCount: 0,
    tensors: [
      await tensor('token_embd.weight', 'embed', [4, 4], null),
      await tensor('output_norm.weight', 'final_norm', [4], null),
      await tensor('blk.0.attn_norm.weight', 'layers.0.attn_norm', [4], 0),
      await tensor('blk.0.ffn_norm.weight', 'layers.0.mlp_norm', [4], 0),
      ...(await Promise.all(square.map(role => tensor(`blk.0.${role}`, `layers.0.${role}`, [4, 4], 0)))),
    ],
  }
  return (await writeManifest(context.payloads, manifest)).hash
}

test('q and k of a GGUF llama go back to the order of Hugging Face, the others stay', async () => {
  const hash = await ggufLlama()
  const tensors = exportTensors(await readManifest(context.payloads, hash), context.payloads)
  const rowsOf = async (name: string) => {
    const chunks: Uint8Array[] = []
    for await (const chunk of tensors.find(t => t.name === name)!.chunks(context.signal))
      chunks.push(Buffer.from(chunk))
    const values = new Float32Array(new Uint8Array(Buffer.concat(chunks)).buffer)
    return [0, 1, 2, 3].map(row => values[row * 4]! / 4)
  }
  // GGUF row 2i + s is Hugging Face row s * 2 + i.
  expect(await rowsOf('model.layers.0.self_attn.q_proj.weight')).toEqual([0, 2, 1, 3])
  expect(await rowsOf('model.layers.0.self_attn.k_proj.weight')).toEqual([0, 2, 1, 3])
  expect(await rowsOf('model.layers.0.self_attn.v_proj.weight')).toEqual([0, 1, 2, 3])
})

test('a configuration is written for GGUF models', async () => {
  const manifest = await ggufLlama()
  await exportModel({ manifest, name: 'm', format: 'SAFETENSORS' }, context)
  expect(JSON.parse((await exported('config.json')).toString())).toMatchObject({
    architectures: ['LlamaForCausalLM'],
    num_hidden_layers: 1,
    head_dim: 4,
    rms_norm_eps: 1e-5,
    tie_word_embeddings: true,
    torch_dtype: 'float32',
  })
})

test('a GGUF model built here is written anew, byte for byte where nothing is converted', async () => {
  const manifest = await ggufLlama()
  const { files } = await exportModel({ manifest, name: 'a cut: model', format: 'GGUF' }, context)
  expect(files.map(f => f.path)).toEqual(['job/a-cut-model.F32.gguf'])
  const again = await ingestModel({ source: join(context.dataFolder, 'exports', files[0]!.path) }, context)
  const [before, after] = [
    await readManifest(context.payloads, manifest),
    await readManifest(context.payloads, again.manifest),
  ]
  const stored = ({ tensors }: Manifest) => tensors.map(t => [t.name, t.shape, t.dtype, t.payload])
  // The tensors of this test have names of no convention; written are those of GGUF.
  expect(stored(after).map(([, ...rest]) => rest)).toEqual(stored(before).map(([, ...rest]) => rest))
  expect(after.tensors.map(t => t.role)).toEqual(before.tensors.map(t => t.role))
  expect(after.dimensions).toEqual(before.dimensions)
})

test('quantization for SafeTensors is refused, naming it', async () => {
  const manifest = await ggufLlama()
  await expect(
    exportModel({ manifest, name: 'm', format: 'SAFETENSORS', quantization: 'Q4_0' }, context),
  ).rejects.toMatchObject({ code: 'UNSUPPORTED_FORMAT', message: expect.stringContaining('Q4_0') })
})

describe.runIf(sharedPresent('GGUF export of stories260K', 'models', 'stories260K'))('GGUF of stories260K', () => {
  const ingest = async (source: string) => (await ingestModel({ source }, context)).manifest
  const exportGguf = async (manifest: string, quantization?: 'F32' | 'F16' | 'Q8_0' | 'Q4_0' | 'Q4_1') => {
    const input = { manifest, name: 'stories260K', format: 'GGUF', ...(quantization && { quantization }) } as const
    const [file] = (await exportModel(input, context)).files
    return join(context.dataFolder, 'exports', file!.path)
  }

  test('a model from SafeTensors gives the same logits after its way through GGUF, and goes back to the same bytes', async () => {
    const source = await ingest(stories)
    const manifest = await ingest(await exportGguf(source))
    const ids = [1, 403, 407, 261, 378]
    const logits = []
    for (const hash of [source, manifest]) {
      const model = await openModel(await readManifest(context.payloads, hash), context)
      logits.push((await model.forward({ ids: [ids], wantLogits: 'last' })).logits[0]!.slice())
      await model.dispose()
    }
    const [ours, theirs] = logits as [Float32Array, Float32Array]
    expect(Math.max(...ours.map((value, i) => Math.abs(value - theirs[i]!)))).toBeLessThan(1e-4)

    const { parent, sourceFiles, ...cut } = await readManifest(context.payloads, manifest)
    expect([parent, sourceFiles?.length]).toEqual([undefined, 1])
    const { hash } = await writeManifest(context.payloads, cut)
    await exportModel({ manifest: hash, name: 'm', format: 'SAFETENSORS' }, context)
    const back = await ingest(join(context.dataFolder, 'exports', 'job'))
    const payloadsOf = async (of: string) =>
      new Map((await readManifest(context.payloads, of)).tensors.map(t => [t.name, t.payload]))
    expect(await payloadsOf(back)).toEqual(await payloadsOf(source))
  })

  test('a student ingests back to its own tensors, dimensions and tokenizer', async () => {
    const parent = await ingest(await exportGguf(await ingest(stories), 'Q8_0'))
    const student = await buildStudent({ parent, layers: [{ from: 1, to: 4 }] }, context)
    const back = await ingest(await exportGguf(student.manifest))
    const [before, after] = [
      await readManifest(context.payloads, student.manifest),
      await readManifest(context.payloads, back),
    ]
    expect(after.tensors).toEqual(before.tensors)
    expect(
      after.tensors.filter(t => t.shape.at(-1) === 64 && t.shape.length === 2).every(t => t.dtype === 'Q8_0'),
    ).toBe(true)
    expect(after.dimensions).toEqual(before.dimensions)
    expect(after.tokenizer).toEqual(before.tokenizer)
    expect(after.parameterCount).toBe(before.parameterCount)
  })

  test('rows that are no whole blocks are written in half precision', async () => {
    const manifest = await ingest(await exportGguf(await ingest(stories), 'Q4_0'))
    const { tensors } = await readManifest(context.payloads, manifest)
    const types = Object.fromEntries(tensors.map(t => [t.role, [t.dtype, t.shape.at(-1)]]))
    // 64 columns are two blocks, 172 are none.
    expect(types['layers.0.up']).toEqual(['Q4_0', 64])
    expect(types['layers.0.down']).toEqual(['F16', 172])
    expect(types['layers.0.attn_norm']).toEqual(['F32', 64])
  })

  test('a cancelled export leaves no file', async () => {
    const manifest = await ingest(stories)
    const cancelled = context.withSignal(AbortSignal.abort())
    await expect(exportModel({ manifest, name: 'm', format: 'GGUF' }, cancelled)).rejects.toThrow()
    expect(await readdir(join(context.dataFolder, 'exports'))).toEqual([])
  })
})
