// Configurations, tokenizers and texts that a model brings and that lie: refused by name, nothing stored, and in no time.
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { checkBuildable } from '../../../../compute/architectures/registry.js'
import { hfLicense } from '../../../../compute/formats/hf-config.js'
import { readManifest } from '../../../../compute/formats/manifest.js'
import { writeSafetensorsHeader } from '../../../../compute/formats/safetensors.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { type GgufSpec, ggufBytes, soundGguf } from '../../../testkit/weight-files.js'

let context: TestHandlerContext
let folder: string
beforeEach(async () => {
  context = await handlerContext()
  folder = await mkdtemp(join(tmpdir(), 'hostile-'))
})
afterEach(async () => {
  await context.dispose()
  await rm(folder, { recursive: true, force: true })
})

async function expectRefused(message: RegExp) {
  await expect(ingestModel({ source: folder }, context)).rejects.toMatchObject({
    code: 'INVALID_MODEL_FILE',
    message: expect.stringMatching(message),
  })
  const stored = []
  for await (const payload of context.payloads.list()) stored.push(payload)
  expect(stored).toEqual([])
  expect(await readdir(join(context.payloads.root, 'tmp'))).toEqual([])
}

async function writeFolder(files: Record<string, unknown>) {
  await mkdir(folder, { recursive: true })
  const header = writeSafetensorsHeader([{ name: 'model.embed_tokens.weight', dtype: 'F32', shape: [2, 2], bytes: 16 }])
  await writeFile(join(folder, 'model.safetensors'), Buffer.concat([header, Buffer.alloc(16)]))
  for (const [name, value] of Object.entries(files))
    await writeFile(join(folder, name), typeof value === 'string' ? value : JSON.stringify(value))
}

const config = { model_type: 'llama', hidden_size: 2, num_hidden_layers: 1, num_attention_heads: 1, vocab_size: 2 }
const tokenizer = { model: { type: 'BPE', vocab: { a: 0, b: 1 }, merges: [] } }

describe('a SafeTensors folder', () => {
  test.each([
    [1e9, /num_hidden_layers is 1000000000, expected a whole number from 0 to 10000/],
    ['12', /num_hidden_layers is "12"/],
    [-1, /num_hidden_layers is -1/],
    [true, /num_hidden_layers is true/],
    [{}, /num_hidden_layers is {}/],
    [1.5, /num_hidden_layers is 1.5/],
  ])('with num_hidden_layers %j is refused', async (layers, message) => {
    await writeFolder({ 'config.json': { ...config, num_hidden_layers: layers } })
    await expectRefused(message)
  })

  test.each([1e300, 2 ** 53, 2 ** 26])('with the token id %d is refused', async id => {
    await writeFolder({
      'config.json': config,
      'tokenizer.json': { model: { type: 'BPE', vocab: { a: id }, merges: [] } },
    })
    await expectRefused(/token id \S+, at most 67108863/)
  })

  test('with a model_type of a million characters is refused', async () => {
    await writeFolder({ 'config.json': { ...config, model_type: 'x'.repeat(1e6) } })
    await expectRefused(/model_type has 1000000 characters, at most 200/)
  })

  test('with a chat template of two million characters is refused', async () => {
    await writeFolder({ 'config.json': config, 'tokenizer.json': tokenizer, 'chat_template.jinja': 'x'.repeat(2e6) })
    await expectRefused(/chat template has 2000000 characters, at most 1048576/)
  })

  test('with no layers is taken in, and nothing can be built from it', async () => {
    await writeFolder({ 'config.json': { ...config, num_hidden_layers: 0, intermediate_size: 4 } })
    const { manifest } = await ingestModel({ source: folder }, context)
    const read = await readManifest(context.payloads, manifest)
    expect(() => checkBuildable(read)).toThrow(/0 layers/)
  })
})

test('a README of a million line breaks is read for its licence at once', () => {
  const began = performance.now()
  expect(hfLicense({ readme: `---\n${'\n'.repeat(1e6)}` })).toBeUndefined()
  expect(hfLicense({ readme: `---${' \n'.repeat(1e6)}license: mit` })).toBeUndefined()
  expect(performance.now() - began).toBeLessThan(1000)
})

test('more tensors than a call has room for arguments are taken in', async () => {
  const tensors = Array.from({ length: 150_000 }, (_, i) => ({ name: `t${i}`, dtype: 'F32', shape: [0], bytes: 0 }))
  await writeFile(join(folder, 'model.safetensors'), writeSafetensorsHeader(tensors))
  expect(await ingestModel({ source: folder }, context)).toMatchObject({ tensors: 150_000, tensorBytes: 0 })
})

describe('a GGUF file', () => {
  const floats = (count: number) => {
    const bytes = Buffer.alloc(12 + 4 * count)
    bytes.writeUInt32LE(6, 0)
    bytes.writeBigUInt64LE(BigInt(count), 4)
    return { type: 'raw' as const, typeId: 9, bytes }
  }
  const withMetadata = async (...metadata: GgufSpec['metadata']) => {
    const sound = soundGguf()
    const names = new Set(metadata.map(([key]) => key))
    await writeFile(
      join(folder, 'model.gguf'),
      ggufBytes({ ...sound, metadata: [...sound.metadata.filter(([key]) => !names.has(key)), ...metadata] }),
    )
  }
  const pieces = (tokens: string[]): GgufSpec['metadata'] => [
    ['tokenizer.ggml.model', { type: 'string', value: 'llama' }],
    ['tokenizer.ggml.tokens', { type: 'strings', value: tokens }],
    ['tokenizer.ggml.scores', floats(tokens.length)],
  ]

  test('whose longest piece would take minutes to split is refused', async () => {
    await withMetadata(...pieces(['a'.repeat(400_000), 'b']))
    await expectRefused(/2 pieces of up to 400000 characters/)
  })

  test('with more than a million tokens is refused', async () => {
    await withMetadata(...pieces(new Array(1_000_001).fill('')))
    await expectRefused(/1000001 tokens, at most 1000000/)
  })

  test('whose BOS is no whole number has none', async () => {
    await withMetadata(...pieces(['a', 'b']), ['tokenizer.ggml.bos_token_id', { type: 'f32', value: 0.5 }])
    const { manifest } = await ingestModel({ source: folder }, context)
    expect((await readManifest(context.payloads, manifest)).tokenizer).toMatchObject({
      addBos: false,
      vocabularySize: 2,
    })
  })

  test('with an architecture of a million characters is refused', async () => {
    await withMetadata(['general.architecture', { type: 'string', value: 'y'.repeat(1e6) }])
    await expectRefused(/general.architecture has 1000000 characters/)
  })
})
