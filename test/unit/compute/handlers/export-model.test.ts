// Export: original files byte for byte, and Hugging Face folders for everything else.
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
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

  test('GGUF and ONNX of it are refused with a reason', async () => {
    const { manifest } = await ingestModel({ source: stories }, context)
    for (const format of ['GGUF', 'ONNX'] as const) {
      await expect(exportModel({ manifest, name: 'm', format }, context)).rejects.toMatchObject({
        code: 'UNSUPPORTED_FORMAT',
      })
    }
    expect(existsSync(join(context.dataFolder, 'exports', 'job'))).toBe(false)
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

test('GGUF of a model that was not ingested as it is, is refused by name', async () => {
  const manifest = await ggufLlama()
  await expect(exportModel({ manifest, name: 'cut', format: 'GGUF' }, context)).rejects.toThrow(/cut was built here/)
})
