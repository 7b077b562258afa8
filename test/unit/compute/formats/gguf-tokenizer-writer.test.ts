// tokenizer.json -> GGUF metadata and back: the same ids for the same texts, and clear refusals of what GGUF cannot say.
import { existsSync, readFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { describe, expect, test } from 'vitest'
import { type GgufMetadata, readGguf } from '../../../../compute/formats/gguf.js'
import { ggufTokenizer } from '../../../../compute/formats/gguf-tokenizer.js'
import { ggufTokenizerEntries } from '../../../../compute/formats/gguf-tokenizer-writer.js'
import { writeGgufHeader } from '../../../../compute/formats/gguf-writer.js'
import { hfTokenizer } from '../../../../compute/formats/hf-tokenizer.js'
import { fileAccess, memoryAccess } from '../../../../compute/formats/random-access.js'
import { createTokenizer } from '../../../../compute/formats/tokenizer.js'
import { projectFile } from '../../../../lib/project.js'
import { picoTokenizer } from '../../../testkit/pico-llama.js'
import { sharedFile } from '../../../testkit/shared-files.js'

type Json = Record<string, unknown>
const readJson = (path: string): Json => JSON.parse(readFileSync(path, 'utf8'))
const config = { bos_token: '<s>', eos_token: '</s>' }

/** Through the bytes of a file. */
async function written(tokenizer: Json, rows: number, rule?: string): Promise<GgufMetadata> {
  const facts = hfTokenizer({ tokenizer, tokenizerConfig: config })!
  const entries = new Map(ggufTokenizerEntries(tokenizer, facts, rows, rule))
  const tensor = { name: 'x', dtype: 'F32', shape: [8], bytes: 32 }
  const header = writeGgufHeader(new Map([['general.architecture', { text: 'llama' }] as const, ...entries]), [tensor])
  return (await readGguf(memoryAccess(Buffer.concat([header, Buffer.alloc(32)])))).metadata
}

const texts = ['Once upon a time', 'One day, Lily (3) saw 12 “birds”.\n\n1. naïve café — 你好 🙂', '  two  spaces ', '']

async function sameIds(tokenizer: Json, strings: readonly string[], rows: number) {
  const facts = hfTokenizer({ tokenizer, tokenizerConfig: config })!
  const built = ggufTokenizer(await written(tokenizer, rows))!
  const before = createTokenizer(tokenizer, config, facts)
  const after = createTokenizer(JSON.parse(JSON.stringify(built.tokenizerJson)), built.tokenizerConfig, built.facts)
  expect(strings.map(s => after.encodePrompt(s))).toEqual(strings.map(s => before.encodePrompt(s)))
  expect(strings.map(s => after.decode(before.encode(s)))).toEqual(strings.map(s => before.decode(before.encode(s))))
  expect(built.facts.eosTokenIds).toEqual(facts.eosTokenIds)
  expect(built.facts.addBos).toBe(facts.addBos)
  return built
}

test('byte-level BPE: the demo model’s tokenizer comes back with its rule and its merges', async () => {
  const tokenizer = readJson(projectFile('demo/model/tokenizer.json'))
  const metadata = await written(tokenizer, 512)
  expect(metadata.get('tokenizer.ggml.model')).toBe('gpt2')
  expect(metadata.get('tokenizer.ggml.pre')).toBe('smollm')
  const built = await sameIds(tokenizer, texts, 512)
  expect((built.tokenizerJson.model as Json).merges).toEqual((tokenizer.model as Json).merges)
})

test('SentencePiece without bytes and merges: the pico tokenizer', async () => {
  const built = await sameIds(picoTokenizer(), ['once upon a time.', 'ABC?'], 64)
  expect(built.facts.kind).toBe('SentencePiece')
})

const small = ['stories260K', 'babyllama-tok105', 'aidreams260K'].filter(name =>
  existsSync(sharedFile('models', name, 'tokenizer.json')),
)
if (small.length === 0) console.warn('GGUF tokenizers of the shared models: skipped, they are not there')
describe.runIf(small.length > 0)('SentencePiece of the small models', () => {
  test.each(small)('%s gives the reference ids after its way through GGUF', async name => {
    const tokenizer = readJson(sharedFile('models', name, 'tokenizer.json'))
    const rows = Object.keys((tokenizer.model as { vocab: Json }).vocab).length
    const reference = readJson(sharedFile('reference', `tokenizer_${name}.json`)) as {
      strings: { text: string; ids: number[] }[]
    }
    const built = await sameIds(
      tokenizer,
      reference.strings.map(s => s.text),
      rows,
    )
    const after = createTokenizer(JSON.parse(JSON.stringify(built.tokenizerJson)), {}, built.facts)
    expect(reference.strings.map(s => [1, ...after.encode(s.text)])).toEqual(reference.strings.map(s => s.ids))
  })
})

const smollm2 = sharedFile('models', 'smollm2-135m-instruct', 'SmolLM2-135M-Instruct.Q4_1.gguf')
test.runIf(existsSync(smollm2))('SmolLM2: the tokenizer built from its GGUF comes back the same', async () => {
  const file = await open(smollm2)
  const { metadata } = await readGguf(fileAccess(file, (await file.stat()).size, 'smollm2.gguf'))
  await file.close()
  const built = ggufTokenizer(metadata)!
  const json: Json = JSON.parse(JSON.stringify(built.tokenizerJson))
  const entries = new Map(ggufTokenizerEntries(json, built.facts, 49152, 'smollm'))
  const tensor = { name: 'x', dtype: 'F32', shape: [8], bytes: 32 }
  const again = await readGguf(memoryAccess(Buffer.concat([writeGgufHeader(entries, [tensor]), Buffer.alloc(32)])))
  const rebuilt = ggufTokenizer(again.metadata)!
  expect(JSON.stringify(rebuilt.tokenizerJson)).toBe(JSON.stringify(built.tokenizerJson))
  expect(rebuilt.facts).toEqual(built.facts)
  expect(again.metadata.get('tokenizer.ggml.tokens')).toEqual(metadata.get('tokenizer.ggml.tokens'))
  expect(again.metadata.get('tokenizer.ggml.merges')).toEqual(metadata.get('tokenizer.ggml.merges'))
})

test('rows without a token are named and unused', async () => {
  const metadata = await written(picoTokenizer(), 66)
  expect((metadata.get('tokenizer.ggml.tokens') as string[]).slice(63)).toEqual([
    expect.any(String),
    '[PAD64]',
    '[PAD65]',
  ])
  expect([...(metadata.get('tokenizer.ggml.token_type') as Int32Array)].slice(63)).toEqual([1, 5, 5])
})

describe('what GGUF cannot say is refused', () => {
  const demo = () => readJson(projectFile('demo/model/tokenizer.json'))

  test('another kind of model', async () => {
    const unigram = { ...demo(), model: { type: 'Unigram', unk_id: 0, vocab: [['<unk>', 0]] } }
    await expect(written(unigram, 512)).rejects.toThrow('A tokenizer of the type Unigram is not written to GGUF')
  })

  test('a rule that llama.cpp has no name for', async () => {
    const other = { ...demo(), pre_tokenizer: { type: 'Split', pattern: { Regex: 'x+' }, behavior: 'Isolated' } }
    await expect(written(other, 512)).rejects.toMatchObject({
      code: 'UNSUPPORTED_FORMAT',
      message: expect.stringContaining('x+'),
    })
  })

  test('more tokens than rows, with both numbers', async () => {
    await expect(written(demo(), 500)).rejects.toMatchObject({
      code: 'SHAPE_MISMATCH',
      message: expect.stringMatching(/512 tokens.*500 rows/),
    })
  })

  test('pieces that SentencePiece would join and the merges do not', async () => {
    const pico = picoTokenizer() as { model: { vocab: Record<string, number> } }
    const { '<extra_63>': _, ...vocab } = pico.model.vocab
    const last = Object.keys(vocab).at(-1)!
    delete vocab[last]
    vocab.ab = pico.model.vocab[last]!
    await expect(written({ ...pico, model: { ...pico.model, vocab } }, 64)).rejects.toThrow(
      /0 merges.*allow 1 \(as "a b"\)/,
    )
  })
})
