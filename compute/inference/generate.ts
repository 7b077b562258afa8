// Text generation: prompt or messages in, pieces of text out as they are made, until an end, a stop string, a limit or a cancellation.
import { randomInt } from 'node:crypto'
import { DomainError, isDomainError } from '../../lib/errors.js'
import type { ModelTokenizer } from '../formats/tokenizer.js'
import { type ChatMessage, renderChat } from './chat.js'
import { logProbabilities, type TokenLogProbability } from './log-probabilities.js'
import type { LoadedModel } from './model.js'
import { penaliseRepetition, type SamplingOptions, sampleToken, seededRandom } from './sampling.js'
import { stopFilter, textStream } from './text-stream.js'

export interface GenerateRequest extends SamplingOptions {
  /** Exactly one of prompt and messages. */
  prompt?: string | undefined
  messages?: readonly ChatMessage[] | undefined
  maxTokens: number
  /** The same seed gives the same tokens, whatever else runs. */
  seed?: number | undefined
  stop?: readonly string[] | undefined
  /** Log-probabilities of every token made, and of this many of the likeliest in its place. */
  logProbabilities?: number | undefined
}

export interface GenerateResult {
  /** All deltas joined: without end-of-text tokens and without the stop string. */
  text: string
  /** Every token that was made, the one that ended it included. */
  tokenIds: number[]
  /** LENGTH: maxTokens were made, or the model's context is full. */
  finishReason: 'STOP' | 'LENGTH' | 'CANCELLED'
  promptTokens: number
  completionTokens: number
  /** Decoding speed, prefill not counted; null for fewer than two tokens. */
  tokensPerSecond: number | null
  /** Tokens of the prompt that were not read again, since a sequence before began with them. */
  reusedTokens: number
  /** Of every token made, where they were asked for. */
  logProbabilities?: TokenRecord[]
}

/** A token by itself, as text (U+FFFD where it is a part of a character), with what the model thought of it. */
export interface TokenText extends TokenLogProbability {
  text: string
}

export interface TokenRecord extends TokenText {
  /** The likeliest tokens in its place, first the most likely. */
  top: TokenText[]
}

export interface GenerationDelta {
  textDelta: string
  /** Characters of the text before the piece. */
  offset: number
  /** The token that completed the piece, and its place among those made, from 0. */
  tokenId: number
  index: number
  /** All tokens made since the piece before; several where a character or a possible stop string took several, none at the very end. */
  tokenIds: number[]
  /** Of `tokenIds`, where they were asked for. */
  logProbabilities?: TokenRecord[]
}

export interface GenerateEvents {
  /** Called with every piece of text. */
  onDelta?: (delta: GenerationDelta) => void
  /** Ends the waiting for a token at once. What was made until then is the result, with CANCELLED. */
  signal?: AbortSignal
  /** What sampling begins with where the request has no seed; absent: any number. */
  defaultSeed?: number
}

/** The token ids a request begins with. Throws BAD_USER_INPUT and CONTEXT_LENGTH_EXCEEDED with both numbers. */
export function promptTokens(model: LoadedModel, tokenizer: ModelTokenizer, request: GenerateRequest): number[] {
  const { prompt, messages } = request
  if ((prompt === undefined) === (messages === undefined)) {
    throw new DomainError('BAD_USER_INPUT', 'Give either a prompt or messages', { field: ['input', 'prompt'] })
  }
  const text =
    prompt ?? renderChat(model.manifest.chatTemplate, messages as readonly ChatMessage[], tokenizer.specialTokens)
  const ids = tokenizer.encodePrompt(text)
  if (ids.length === 0) {
    throw new DomainError('BAD_USER_INPUT', 'The prompt is empty, and this model has no token to begin with', {
      field: ['input', 'prompt'],
    })
  }
  const { contextLength } = model.dimensions
  if (ids.length >= contextLength) {
    throw new DomainError(
      'CONTEXT_LENGTH_EXCEEDED',
      `The prompt has ${ids.length} tokens and leaves no room for an answer: the model's context is ${contextLength}`,
      { field: ['input', prompt === undefined ? 'messages' : 'prompt'] },
    )
  }
  return ids
}

/** Generates one continuation. Several may run at once on one model: they are one batch. */
export async function generate(
  model: LoadedModel,
  tokenizer: ModelTokenizer,
  request: GenerateRequest,
  { onDelta, signal, defaultSeed }: GenerateEvents = {},
): Promise<GenerateResult> {
  const prompt = promptTokens(model, tokenizer, request)
  const limit = Math.min(request.maxTokens, model.dimensions.contextLength - prompt.length)
  const random = seededRandom(request.seed ?? defaultSeed ?? randomInt(2 ** 32))
  const stream = textStream(tokenizer, prompt)
  const filter = stopFilter(request.stop ?? [])
  const penalty = request.repetitionPenalty ?? 1
  const seen = new Set(penalty === 1 ? [] : prompt)
  const row = model.batch.open({
    positions: prompt.length + limit,
    exact: request.seed !== undefined && request.temperature > 0,
  })
  const tokenIds: number[] = []
  const records: TokenRecord[] = []
  let text = ''
  let firstTokenAt = 0
  /** Tokens that deltas have named. */
  let named = 0
  /** A stop string ended it: nothing held back may follow. */
  let cut = false

  const emit = (textDelta: string) => {
    if (textDelta === '') return
    onDelta?.({
      textDelta,
      offset: text.length,
      tokenId: tokenIds.at(-1)!,
      index: tokenIds.length - 1,
      tokenIds: tokenIds.slice(named),
      ...(request.logProbabilities === undefined ? {} : { logProbabilities: records.slice(named) }),
    })
    text += textDelta
    named = tokenIds.length
  }
  const withText = (token: TokenLogProbability): TokenText => ({
    ...token,
    text: tokenizer.decode([token.id], { skipSpecialTokens: false }),
  })
  const choose = (logits: Float32Array): number => {
    const id = sampleToken(penaliseRepetition(logits, seen, penalty), request, random)
    if (request.logProbabilities !== undefined) {
      const { top, ...own } = logProbabilities(logits, id, request.logProbabilities)
      records.push({ ...withText(own), top: top.map(withText) })
    }
    if (penalty !== 1) seen.add(id)
    return id
  }
  const run = async (): Promise<GenerateResult['finishReason']> => {
    let next: readonly number[] = prompt
    for (;;) {
      const id = choose(await row.append(next, signal))
      if (tokenIds.length === 0) firstTokenAt = performance.now()
      tokenIds.push(id)
      if (tokenizer.eosTokenIds.includes(id)) return 'STOP'
      const shown = filter.push(stream.push(id))
      emit(shown.text)
      if (shown.stopped) {
        cut = true
        return 'STOP'
      }
      if (tokenIds.length >= limit) return 'LENGTH'
      next = [id]
    }
  }
  const finishReason = await run()
    .catch(error => {
      if (isDomainError(error) && error.code === 'CANCELLED') return 'CANCELLED' as const
      throw error
    })
    .finally(() => row.close())
  const seconds = (performance.now() - firstTokenAt) / 1000
  if (!cut) {
    const rest = filter.push(stream.flush())
    emit(rest.stopped ? rest.text : rest.text + filter.flush())
  }
  return {
    text,
    tokenIds,
    finishReason,
    promptTokens: prompt.length,
    completionTokens: tokenIds.length,
    tokensPerSecond: tokenIds.length > 1 ? (tokenIds.length - 1) / seconds : null,
    reusedTokens: row.reused,
    ...(request.logProbabilities === undefined ? {} : { logProbabilities: records }),
  }
}
