// Ingest end to end on real files: what comes out, what is shared, and what a failure leaves behind.
import { appendFileSync } from 'node:fs'
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { readManifest } from '../../../../compute/formats/manifest.js'
import { writeSafetensorsHeader } from '../../../../compute/formats/safetensors.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { manifestPayloads } from '../../../../lib/manifest.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { sharedFile, sharedPresent } from '../../../testkit/shared-files.js'
import { ggufBytes, soundGguf, soundSafetensors } from '../../../testkit/weight-files.js'

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

async function stored(): Promise<Map<string, number>> {
  const all = new Map<string, number>()
  for await (const { hash, bytes } of context.payloads.list()) all.set(hash, bytes)
  return all
}

async function expectNothingStored() {
  expect(await stored()).toEqual(new Map())
  expect(await readdir(join(context.payloads.root, 'tmp'))).toEqual([])
}

const file = async (name: string, bytes: Uint8Array) => {
  await writeFile(join(folder, name), bytes)
  return join(folder, name)
}

const smollm2 = sharedFile('models', 'smollm2-135m-instruct', 'SmolLM2-135M-Instruct.Q4_1.gguf')
describe.runIf(sharedPresent('Ingest of SmolLM2-135M', 'models', 'smollm2-135m-instruct'))('SmolLM2-135M', () => {
  test('has 272 tensors, 134,515,008 parameters and a tokenizer, and comes in a second time without a byte', async () => {
    const first = await ingestModel({ source: smollm2 }, context)
    expect(first).toMatchObject({
      tensors: 272,
      tensorBytes: 96_576_768,
      newTensorBytes: 96_576_768,
      bytesRead: 98_362_432,
    })
    const manifest = await readManifest(context.payloads, first.manifest)
    expect(manifest).toMatchObject({
      format: 'gguf',
      architecture: 'llama',
      parameterCount: 134_515_008,
      license: 'apache-2.0',
      dimensions: {
        layerCount: 30,
        hiddenSize: 576,
        keyValueHeadCount: 3,
        contextLength: 8192,
        ropeLayout: 'interleaved',
      },
      tokenizer: { kind: 'BPE', vocabularySize: 49_152, addBos: false },
    })
    expect(manifest.tensors.every(t => t.role !== undefined)).toBe(true)
    expect(manifest.chatTemplate).toContain('<|im_start|>')
    const before = await stored()
    expect(first.bytesWritten).toBe([...before.values()].reduce((a, b) => a + b, 0))
    const second = await ingestModel({ source: `file://${smollm2}` }, context)
    expect(second).toMatchObject({ manifest: first.manifest, bytesWritten: 0, newTensorBytes: 0 })
    expect(await stored()).toEqual(before)
    const last = context.reports.filter(r => r.stage === 'tensors').at(-1)
    expect(last).toMatchObject({ completed: 96_576_768, total: 96_576_768, unit: 'bytes' })
  })

  test('stops within a second of a cancellation and leaves nothing', async () => {
    const abort = new AbortController()
    const running = ingestModel(
      { source: smollm2 },
      {
        ...context.withSignal(abort.signal),
        progress: r => {
          if (r.completed > 20_000_000) abort.abort()
        },
      },
    )
    let aborted = 0
    abort.signal.addEventListener('abort', () => {
      aborted = performance.now()
    })
    await expect(running).rejects.toThrow()
    expect(performance.now() - aborted).toBeLessThan(1000)
    await expectNothingStored()
  })
})

const textgenrnn = sharedFile('models', 'textgenrnn-family', 'base.safetensors')
test.runIf(sharedPresent('Ingest of an unknown architecture', 'models', 'textgenrnn-family'))(
  'a model of an unknown architecture is taken in tensor by tensor',
  async () => {
    const { manifest } = await ingestModel({ source: textgenrnn }, context)
    expect(await readManifest(context.payloads, manifest)).toMatchObject({
      format: 'safetensors',
      architecture: 'unknown',
    })
  },
)

test('a small GGUF becomes payloads that the manifest names, all of them', async () => {
  const { manifest: hash } = await ingestModel({ source: await file('m.gguf', ggufBytes()) }, context)
  const manifest = await readManifest(context.payloads, hash)
  expect(manifest.tensors).toMatchObject([
    { name: 'blk.0.a', layerIndex: 0, shape: [2, 3], dtype: 'F32', bytes: 24 },
    { name: 'b', layerIndex: null, shape: [1, 32], dtype: 'Q8_0', bytes: 34 },
  ])
  expect(manifest.parameterCount).toBe(38)
  expect(new Set((await stored()).keys())).toEqual(new Set([...manifestPayloads(manifest), hash]))
})

test('two ingests of one file at once end with one set of payloads', async () => {
  const source = await file('m.gguf', ggufBytes())
  const results = await Promise.all([1, 2, 3].map(() => ingestModel({ source }, context)))
  expect(new Set(results.map(r => r.manifest)).size).toBe(1)
  const manifest = await readManifest(context.payloads, results[0]!.manifest)
  expect((await stored()).size).toBe(manifestPayloads(manifest).size + 1)
  expect(await readdir(join(context.payloads.root, 'tmp'))).toEqual([])
})

const config = {
  model_type: 'llama',
  num_hidden_layers: 2,
  hidden_size: 4,
  rope_parameters: { rope_theta: 500, rope_type: 'default' },
}
const shard = (names: string[]) =>
  Buffer.concat([
    writeSafetensorsHeader(names.map(name => ({ name, dtype: 'F16', shape: [4], bytes: 8 }))),
    Buffer.alloc(8 * names.length, 1),
  ])
const norm = (layer: number) => `model.layers.${layer}.input_layernorm.weight`

async function shardedFolder(map: Record<string, string> = { [norm(0)]: 'a.safetensors', [norm(1)]: 'b.safetensors' }) {
  await file('a.safetensors', shard([norm(0)]))
  await file('b.safetensors', shard([norm(1)]))
  await file('config.json', Buffer.from(JSON.stringify(config)))
  await file('README.md', Buffer.from('---\nlicense: mit\n---\n# Model'))
  await file('model.safetensors.index.json', Buffer.from(JSON.stringify({ weight_map: map })))
}

test('a sharded folder is one model, with configuration and licence', async () => {
  await shardedFolder()
  for (const source of [folder, join(folder, 'model.safetensors.index.json')]) {
    const { manifest } = await ingestModel({ source }, context)
    expect(await readManifest(context.payloads, manifest)).toMatchObject({
      architecture: 'llama',
      license: 'mit',
      dimensions: { layerCount: 2, hiddenSize: 4, ropeTheta: 500, ropeLayout: 'half' },
      tensors: [
        { name: norm(0), role: 'layers.0.attn_norm' },
        { name: norm(1), layerIndex: 1 },
      ],
    })
  }
})

const refusals: [string, () => Promise<string>, string, RegExp][] = [
  ['a path that is not there', async () => join(folder, 'no.gguf'), 'SOURCE_NOT_FOUND', /does not exist/],
  [
    'a folder called x.gguf',
    async () => {
      await mkdir(join(folder, 'x.gguf'))
      return join(folder, 'x.gguf')
    },
    'INVALID_MODEL_FILE',
    /is a folder/,
  ],
  ['an empty file', () => file('e.gguf', Buffer.alloc(0)), 'INVALID_MODEL_FILE', /0 bytes/],
  ['a device', async () => '/dev/null', 'SOURCE_NOT_FOUND', /neither a file nor a folder/],
  ['another ending', () => file('m.bin', Buffer.alloc(9)), 'UNSUPPORTED_FORMAT', /expected a \.safetensors/],
  ['an empty folder', async () => folder, 'SOURCE_NOT_FOUND', /holds no/],
  [
    'several GGUF files',
    async () => {
      await file('a.gguf', ggufBytes())
      await file('b.gguf', ggufBytes())
      return folder
    },
    'SOURCE_NOT_FOUND',
    /2 GGUF files; name one: a\.gguf, b\.gguf/,
  ],
  ['a truncated file', () => file('t.gguf', ggufBytes().subarray(0, -5)), 'INVALID_MODEL_FILE', /tensor b/],
  [
    'an index that names a missing shard',
    async () => {
      await shardedFolder({ [norm(0)]: 'c.safetensors' })
      return folder
    },
    'SOURCE_NOT_FOUND',
    /c\.safetensors/,
  ],
  [
    'an index that names the wrong shard',
    async () => {
      await shardedFolder({ [norm(0)]: 'a.safetensors', [norm(1)]: 'a.safetensors' })
      return folder
    },
    'INVALID_MODEL_FILE',
    /a\.safetensors holds the tensor model\.layers\.1/,
  ],
  [
    'a configuration with a hostile number',
    async () => {
      await file('model.safetensors', soundSafetensors())
      await file('config.json', Buffer.from('{"model_type":"llama","num_hidden_layers":1e30}'))
      return folder
    },
    'INVALID_MODEL_FILE',
    /num_hidden_layers is 1e\+30/,
  ],
  ['an unknown scheme', async () => 'ftp://host/m.gguf', 'SOURCE_REFUSED', /ftp: sources are not read/],
  ['http', async () => 'http://example.com/m.gguf', 'SOURCE_REFUSED', /only https/],
  ['a private address', async () => 'https://127.0.0.1/m.gguf', 'SOURCE_REFUSED', /private address/],
]

describe('refuses and stores nothing', () => {
  for (const [what, source, code, message] of refusals) {
    test(what, async () => {
      const error = await ingestModel({ source: await source() }, context).catch(e => e)
      expect(error).toMatchObject({ code })
      expect(error.message).toMatch(message)
      await expectNothingStored()
    })
  }
})

test('a source above the size limit is refused', async () => {
  const small = { ...context, env: { ...context.env, HARTONOMOUS_MAX_SOURCE_BYTES: 100 } }
  const source = await file('m.gguf', ggufBytes())
  await expect(ingestModel({ source }, small)).rejects.toMatchObject({ code: 'SOURCE_REFUSED' })
  await expectNothingStored()
})

test('a file that grows while it is read is not taken in', async () => {
  const source = await file('m.gguf', ggufBytes())
  const growing = { ...context, progress: () => appendFileSync(source, 'x') }
  await expect(ingestModel({ source }, growing)).rejects.toMatchObject({ code: 'SOURCE_INTERRUPTED', retryable: true })
  await expectNothingStored()
})

const stories = sharedFile('models', 'stories260K')
test.runIf(sharedPresent('Ingest without config.json', 'models', 'stories260K'))(
  'a folder without config.json keeps its tensors',
  async () => {
    await cp(join(stories, 'model.safetensors'), join(folder, 'model.safetensors'))
    const { manifest } = await ingestModel({ source: folder }, context)
    expect(await readManifest(context.payloads, manifest)).toMatchObject({
      architecture: 'unknown',
      dimensions: { layerCount: 5 },
    })
  },
)

test('odd bytes in the padding are kept', async () => {
  const data = Buffer.from(soundGguf().data)
  data[28] = 9
  const { manifest } = await ingestModel({ source: await file('m.gguf', ggufBytes({ data })) }, context)
  const [source] = (await readManifest(context.payloads, manifest)).sourceFiles ?? []
  expect(source?.gaps).toHaveLength(1)
  expect(await readFile(join(folder, 'm.gguf'))).toHaveLength(source!.bytes)
})
