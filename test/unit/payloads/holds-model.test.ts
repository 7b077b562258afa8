// A manifest is not the model: whether everything else of it is in the store too.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Manifest } from '../../../lib/manifest.js'
import { openFilePayloadStore } from '../../../payloads/file-payload-store.js'
import { holdsModel } from '../../../payloads/holds-model.js'
import type { PayloadStore } from '../../../payloads/payload-store.js'
import { makeManifest } from '../../testkit/subgraph-platform.js'

let folder: string
let store: PayloadStore
let manifest: Manifest
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'payloads-'))
  store = await openFilePayloadStore(folder)
  const put = async (text: string) => (await store.put([Buffer.from(text)])).hash
  const { tensors, tokenizer, ...rest } = makeManifest()
  manifest = {
    ...rest,
    tensors: await Promise.all(tensors.map(async t => ({ ...t, payload: await put(t.name) }))),
    tokenizer: { ...tokenizer!, tokenizerJson: await put('tokenizer') },
    sourceFiles: [{ name: 'model.gguf', bytes: 1, header: await put('header'), tensors: [] }],
  }
})
afterEach(() => rm(folder, { recursive: true, force: true }))

test('a model is held while all is there, its file’s header or not', async () => {
  expect(await holdsModel(store, manifest)).toBe(true)
  await store.remove(manifest.sourceFiles![0]!.header)
  expect(await holdsModel(store, manifest)).toBe(true)
})

test.each([
  ['a tensor', () => manifest.tensors.at(-1)!.payload],
  ['the tokenizer', () => manifest.tokenizer!.tokenizerJson],
])('a model that lost %s is not', async (_, lost) => {
  await store.remove(lost())
  expect(await holdsModel(store, manifest)).toBe(false)
})
