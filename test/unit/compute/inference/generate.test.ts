import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readManifest } from '../../../../compute/formats/manifest.js'
import { loadTokenizer, type ModelTokenizer } from '../../../../compute/formats/tokenizer.js'
import { generateText } from '../../../../compute/handlers/generate-text.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { type GenerateRequest, generate } from '../../../../compute/inference/generate.js'
import { type LoadedModel, openModel } from '../../../../compute/inference/model.js'
import { createModelCache } from '../../../../compute/inference/model-cache.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { negativeLogLikelihood, runLlamaFloat64 } from '../../../testkit/llama-float64.js'
import { makePicoLlama, writePicoLlama } from '../../../testkit/pico-llama.js'

let context: TestHandlerContext
let model: LoadedModel
let tokenizer: ModelTokenizer
const hashes: string[] = []

beforeAll(async () => {
  context = await handlerContext({ HARTONOMOUS_THREADS: '1' })
  for (const seed of [7, 8, 9]) {
    const folder = join(context.dataFolder, `pico-${seed}`)
    await writePicoLlama(folder, { seed, context: 64 })
    hashes.push((await ingestModel({ source: folder }, context)).manifest)
  }
  const manifest = await readManifest(context.payloads, hashes[0]!)
  model = await openModel(manifest, context)
  tokenizer = await loadTokenizer(manifest, context.payloads)
})
afterAll(async () => {
  await model.dispose()
  await context.dispose()
})

const request = (overrides: Partial<GenerateRequest> = {}): GenerateRequest => ({
  prompt: 'hello',
  maxTokens: 12,
  temperature: 0,
  ...overrides,
})

describe('generate', () => {
  test('the deltas joined are the text, and each names its token', async () => {
    const deltas: { textDelta: string; tokenId: number; index: number }[] = []
    const result = await generate(model, tokenizer, request({ temperature: 1, seed: 4 }), {
      onDelta: d => deltas.push(d),
    })
    expect(deltas.map(d => d.textDelta).join('')).toBe(result.text)
    expect(deltas.every(d => result.tokenIds[d.index] === d.tokenId)).toBe(true)
    expect(result.completionTokens).toBe(result.tokenIds.length)
    expect(result.promptTokens).toBe(6)
  })

  test('the same seed gives the same text, another seed another', async () => {
    const run = (seed: number) => generate(model, tokenizer, request({ temperature: 1.5, seed, maxTokens: 30 }))
    const [first, again, other] = [await run(11), await run(11), await run(12)]
    expect(again.tokenIds).toEqual(first.tokenIds)
    expect(other.tokenIds).not.toEqual(first.tokenIds)
  })

  test('several at once on one model give what each gives alone', async () => {
    const prompts = ['one', 'two words', 'and three words']
    const alone = []
    for (const prompt of prompts) alone.push(await generate(model, tokenizer, request({ prompt })))
    const together = await Promise.all(prompts.map(prompt => generate(model, tokenizer, request({ prompt }))))
    expect(together.map(r => r.tokenIds)).toEqual(alone.map(r => r.tokenIds))
  })

  test('a seed gives the same tokens whatever else runs, and sampled ones are log-probable as in float64', async () => {
    const sampled = request({ temperature: 1.2, seed: 21, maxTokens: 30, logProbabilities: 2 })
    const alone = await generate(model, tokenizer, sampled)
    const others = ['x', 'another one', 'abcdefgh'].map(prompt =>
      generate(model, tokenizer, request({ prompt, temperature: 1, maxTokens: 20 })),
    )
    const crowded = await generate(model, tokenizer, sampled)
    await Promise.all(others)
    expect(crowded.logProbabilities).toEqual(alone.logProbabilities)
    const ids = tokenizer.encodePrompt('hello')
    const reference = runLlamaFloat64(makePicoLlama({ seed: 7, context: 64 }), [...ids, ...alone.tokenIds])
    alone.logProbabilities!.forEach(({ id, logProbability, top, text }, i) => {
      const logits = reference.logits[ids.length - 1 + i]!
      expect(id).toBe(alone.tokenIds[i])
      expect(logProbability).toBeCloseTo(-negativeLogLikelihood(logits, id), 4)
      const best = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]!).slice(0, 2)
      expect(top.map(t => t.id)).toEqual(best)
      expect(text).toBe(tokenizer.decode([id], { skipSpecialTokens: false }))
    })
  })

  test('a repetition penalty keeps a greedy answer from repeating itself', async () => {
    const most = (ids: number[]) => Math.max(...ids.map(id => ids.filter(other => other === id).length))
    const plain = await generate(model, tokenizer, request({ maxTokens: 30 }))
    const varied = await generate(model, tokenizer, request({ maxTokens: 30, repetitionPenalty: 5 }))
    expect(most(varied.tokenIds)).toBeLessThan(most(plain.tokenIds))
  })

  test('takes turns: a long generation does not hold up a short one', async () => {
    const order: string[] = []
    const long = generate(model, tokenizer, request({ maxTokens: 50 })).then(() => order.push('long'))
    const short = generate(model, tokenizer, request({ maxTokens: 2 })).then(() => order.push('short'))
    await Promise.all([long, short])
    expect(order).toEqual(['short', 'long'])
  })

  test('a stop string ends it and is not shown, also when it spans tokens', async () => {
    const whole = await generate(model, tokenizer, request({ maxTokens: 20, temperature: 1, seed: 3 }))
    const stop = whole.text.slice(4, 7)
    const result = await generate(model, tokenizer, request({ maxTokens: 20, temperature: 1, seed: 3, stop: [stop] }))
    expect(result.finishReason).toBe('STOP')
    expect(result.text).toBe(whole.text.slice(0, whole.text.indexOf(stop)))
  })

  test('the context being full ends it with LENGTH', async () => {
    const result = await generate(model, tokenizer, request({ maxTokens: 1000, temperature: 0, stop: [] }))
    expect(result).toMatchObject({ finishReason: 'LENGTH', completionTokens: 58 })
  })

  test('a prompt as long as the context is refused with both numbers', async () => {
    const long = 'a'.repeat(63)
    await expect(generate(model, tokenizer, request({ prompt: long }))).rejects.toMatchObject({
      code: 'CONTEXT_LENGTH_EXCEEDED',
      message: "The prompt has 64 tokens and leaves no room for an answer: the model's context is 64",
    })
  })

  test('both or neither of prompt and messages are refused', async () => {
    await expect(generate(model, tokenizer, request({ prompt: undefined }))).rejects.toThrow(
      /either a prompt or messages/,
    )
    await expect(generate(model, tokenizer, request({ messages: [] }))).rejects.toThrow(/either a prompt or messages/)
  })

  test('cancelling between tokens keeps what was made', async () => {
    const controller = new AbortController()
    const result = await generate(model, tokenizer, request({ maxTokens: 50, temperature: 1, seed: 2 }), {
      signal: controller.signal,
      onDelta: ({ index }) => {
        if (index >= 3) controller.abort()
      },
    })
    expect(result.finishReason).toBe('CANCELLED')
    expect(result.completionTokens).toBeLessThan(10)
    expect(result.text).not.toBe('')
  })

  test('messages without a template of the model go through the plain one', async () => {
    const result = await generate(model, tokenizer, {
      messages: [{ role: 'user', content: 'hi' }],
      maxTokens: 3,
      temperature: 0,
    })
    expect(result.promptTokens).toBe(1 + 'User: hi\nAssistant:'.length)
  })
})

describe('model.generate', () => {
  test('streams deltas through the context and returns the usage', async () => {
    let streamed = ''
    const result = await generateText(
      { manifest: hashes[0]!, prompt: 'hello', maxTokens: 8, temperature: 0 },
      {
        ...context,
        delta: ({ textDelta }) => {
          streamed += textDelta
        },
      },
    )
    expect(result.text).toBe(streamed)
    expect(result.completionTokens).toBe(8)
    expect(result.tokensPerSecond).toBeGreaterThan(0)
  })

  test('an unknown manifest is PAYLOAD_MISSING, a model without tokenizer NO_TOKENIZER', async () => {
    const input = { prompt: 'a', maxTokens: 1, temperature: 0 }
    await expect(generateText({ ...input, manifest: 'e'.repeat(64) }, context)).rejects.toMatchObject({
      code: 'PAYLOAD_MISSING',
    })
    const manifest = { ...(await readManifest(context.payloads, hashes[0]!)), tokenizer: undefined }
    const { hash } = await context.payloads.put([Buffer.from(JSON.stringify(manifest))])
    await expect(generateText({ ...input, manifest: hash }, context)).rejects.toMatchObject({ code: 'NO_TOKENIZER' })
  })
})

describe('the cache of open models', () => {
  test('keeps the most recently used ones and closes the others', async () => {
    const cache = createModelCache({ models: 2, bytes: 1e9 })
    const touch = (index: number) => cache.use(hashes[index]!, context, async ({ model: opened }) => opened)
    const first = await touch(0)
    await touch(1)
    expect(await touch(0)).toBe(first)
    await touch(2)
    expect(cache.open).toEqual([hashes[0], hashes[2]])
    await cache.dispose()
    expect(cache.open).toEqual([])
    await expect(first.startSequence().append([1])).rejects.toThrow(/disposed/)
  })

  test('never closes a model that is in use, whatever the limit', async () => {
    const cache = createModelCache({ models: 1, bytes: 1 })
    await cache.use(hashes[0]!, context, async ({ model: inUse }) => {
      await cache.use(hashes[1]!, context, async () => {})
      expect((await inUse.startSequence().append([1])).length).toBe(64)
    })
    await cache.dispose()
  })

  test('an open model is opened anew after a payload was set aside, and again when it is whole', async () => {
    const cache = createModelCache()
    const touch = () => cache.use(hashes[2]!, context, async ({ model: opened }) => opened)
    const { payload } = (await readManifest(context.payloads, hashes[2]!)).tensors[0]!
    const bytes = await context.payloads.get(payload)
    const before = await cache.use(hashes[2]!, context, async ({ model: inUse }) => {
      await inUse.startSequence().append([1])
      await context.payloads.quarantine(payload)
      await expect(touch()).rejects.toMatchObject({ code: 'PAYLOAD_MISSING', message: expect.stringMatching(/ingest/) })
      expect((await inUse.startSequence().append([1])).length).toBe(64)
      return inUse
    })
    await expect(before.startSequence().append([1])).rejects.toThrow(/disposed/)
    await context.payloads.put([bytes])
    expect((await (await touch()).startSequence().append([1])).length).toBe(64)
    await cache.dispose()
  })

  test('an opening that failed is tried again, and a cancelled wait says so', async () => {
    const cache = createModelCache()
    const missing = 'f'.repeat(64)
    await expect(cache.use(missing, context, async () => {})).rejects.toMatchObject({ code: 'PAYLOAD_MISSING' })
    expect(cache.open).toEqual([])
    const aborted = context.withSignal(AbortSignal.abort())
    await expect(cache.use(hashes[0]!, aborted, async () => {})).rejects.toMatchObject({ code: 'CANCELLED' })
    await cache.dispose()
  })
})
