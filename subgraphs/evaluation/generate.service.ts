// Generations: a job of the interactive lane, watched from before it can begin; given up when its client has gone.
import type { JobInput, JobOutput, TokenRecordOutput } from '../../compute/pool/job-types.js'
import { finalStates, type JobEvent, type JobRecord } from '../../compute/pool/queue.js'
import { Job } from '../../db/entities/index.js'
import { aliveModel } from '../../db/models.js'
import { scoped } from '../../db/scope.js'
import { DomainError, type ErrorCode, errorTable, isDomainError } from '../../lib/errors.js'
import { closing } from '../build/closing.js'
import { enqueue, toRecord } from '../build/enqueue.js'
import { idempotent } from '../build/idempotency.js'
import { liveModel, runnableManifest } from '../build/live-model.js'
import type { JobEffect, RequestContext } from '../build/platform.js'
import type { FinishReason, GeneratedToken, GenerateInput, GenerationEvent, GenerationUsage } from './generate.type.js'
import { jobReference } from './references.js'

/** Longer ones fit no model's context, at a few characters per token. */
const maximumPromptCharacters = 4_000_000
const maximumMessages = 1_000

interface Running {
  jobId: string
  events: AsyncIterableIterator<JobEvent>
  /** The job's row where it had begun before; undefined where this request began it. */
  known: JobRecord | undefined
}

function checkInput(input: GenerateInput): void {
  const refuse = (field: string, message: string) => {
    throw new DomainError('BAD_USER_INPUT', `${field}: ${message}`, { field: ['input', field] })
  }
  const { prompt, messages, maxTokens, temperature, topP, topK, minP, repetitionPenalty, logProbabilities } = input
  const { stop, userId } = input
  if ((prompt == null) === (messages == null)) refuse('prompt', 'give either a prompt or messages')
  if (messages && (messages.length < 1 || messages.length > maximumMessages))
    refuse('messages', `${messages.length} messages, expected 1 to ${maximumMessages}`)
  const characters = prompt?.length ?? messages!.reduce((sum, m) => sum + m.content.length, 0)
  if (characters > maximumPromptCharacters)
    refuse(prompt == null ? 'messages' : 'prompt', `${characters} characters, at most ${maximumPromptCharacters}`)
  if (maxTokens < 1 || maxTokens > 131_072) refuse('maxTokens', `${maxTokens}, expected 1 to 131072`)
  if (!(temperature >= 0 && temperature <= 10)) refuse('temperature', `${temperature}, expected 0 to 10`)
  if (topP != null && !(topP > 0 && topP <= 1)) refuse('topP', `${topP}, expected above 0 and at most 1`)
  if (topK != null && topK < 1) refuse('topK', `${topK}, expected at least 1`)
  if (minP != null && !(minP >= 0 && minP <= 1)) refuse('minP', `${minP}, expected 0 to 1`)
  if (repetitionPenalty != null && !(repetitionPenalty >= 0.1 && repetitionPenalty <= 10))
    refuse('repetitionPenalty', `${repetitionPenalty}, expected 0.1 to 10`)
  if (logProbabilities != null && !(logProbabilities >= 0 && logProbabilities <= 20))
    refuse('logProbabilities', `${logProbabilities}, expected 0 to 20`)
  if (stop && stop.length > 16) refuse('stop', `${stop.length} texts, at most 16`)
  if (stop?.includes('')) refuse('stop', 'an empty text would end every answer')
  if (userId != null && userId.length > 200) refuse('userId', `${userId.length} characters, at most 200`)
}

/** The input with what was left out left out. */
function jobInput(input: GenerateInput, manifest: string): JobInput<'model.generate'> {
  const {
    prompt,
    messages,
    maxTokens,
    temperature,
    topP,
    topK,
    minP,
    repetitionPenalty,
    seed,
    stop,
    logProbabilities,
  } = input
  const optional = { prompt, topP, topK, minP, repetitionPenalty, seed, stop, logProbabilities }
  const given = Object.fromEntries(Object.entries(optional).filter(([, value]) => value != null))
  return {
    manifest,
    maxTokens,
    temperature,
    ...(given as Partial<JobInput<'model.generate'>>),
    ...(messages == null ? {} : { messages: messages.map(({ role, content }) => ({ role, content })) }),
  }
}

/**
 * Queues a generation, or finds the one that the idempotency key names, and opens its events in the same transaction, so that none is missed.
 * @throws BAD_USER_INPUT, NOT_FOUND, UNSUPPORTED_ARCHITECTURE, NO_TOKENIZER, IDEMPOTENCY_CONFLICT
 */
async function start(context: RequestContext, input: GenerateInput): Promise<Running> {
  checkInput(input)
  const { platform, tenantId } = context
  const { modelId, userId, idempotencyKey } = input
  await runnableManifest(platform.payloads, await liveModel(platform.db.read, tenantId, modelId))
  let events: AsyncIterableIterator<JobEvent> | undefined
  try {
    const { jobId } = await platform.db.tx(async em =>
      idempotent(em, tenantId, 'generate', idempotencyKey, input, async () => {
        const model = await liveModel(em, tenantId, modelId)
        const job = await enqueue(em, platform, {
          tenantId,
          type: 'model.generate',
          modelId: model.id,
          input: jobInput(input, model.manifestHash),
          context: userId == null ? null : { userId },
        })
        events = platform.queue.watch(job.id)
        return { jobId: job.id }
      }),
    )
    return events ? { jobId, events, known: undefined } : await join(context, jobId)
  } catch (error) {
    await events?.return?.()
    throw error
  }
}

/**
 * A generation that was queued before, with its events from the beginning.
 * @throws NOT_FOUND
 */
async function join({ platform, tenantId }: RequestContext, jobId: string): Promise<Running> {
  // Opened before the row is read: it either still runs and its events end, or the row says how it ended.
  const events = platform.queue.watch(jobId, 'start')
  const row = await platform.db.read.findOneBy(Job, { ...scoped(tenantId), id: jobId, type: 'model.generate' })
  if (row) return { jobId, events, known: toRecord(row) }
  await events.return?.()
  throw new DomainError('NOT_FOUND', 'No generation has this id', { field: ['jobId'] })
}

export const generateEffect: JobEffect<'model.generate'> = {
  async claim(em, job, input) {
    await aliveModel(em, job.tenantId, job.modelId!)
    return input
  },
}

/** Requests and streams that wait for each generation of this process. */
const attending = new Map<string, number>()

/** Counts in somebody who waits for the generation. The function returned counts them out; the last one out cancels what still runs. */
function attend(context: RequestContext, jobId: string): (ended: boolean) => Promise<void> {
  attending.set(jobId, (attending.get(jobId) ?? 0) + 1)
  let left = false
  return async ended => {
    if (left) return
    left = true
    const others = attending.get(jobId)! - 1
    if (others > 0) return void attending.set(jobId, others)
    attending.delete(jobId)
    if (!ended) await giveUp(context, jobId)
  }
}

async function giveUp({ platform }: RequestContext, jobId: string) {
  try {
    await platform.queue.cancel(jobId)
  } catch (error) {
    // It ended in the meantime.
    if (!isDomainError(error)) platform.log.error({ err: error, jobId }, 'could not cancel an abandoned generation')
  }
}

type Output = JobOutput<'model.generate'>
type Finished = Output & { finishReason: FinishReason }

/**
 * What a job that has ended made.
 * @throws the job's own code and message where it failed, CANCELLED
 */
function outputOf(job: JobRecord): Finished {
  const output = job.output as Output | null
  if (job.state === 'SUCCEEDED' && output && output.finishReason !== 'CANCELLED') return output as Finished
  if (job.state === 'FAILED' && job.error) {
    const { code, message } = job.error
    throw new DomainError(code in errorTable ? (code as ErrorCode) : 'INTERNAL_SERVER_ERROR', message)
  }
  throw new DomainError('CANCELLED', 'The generation was cancelled')
}

const usageOf = ({ promptTokens, completionTokens, tokensPerSecond, reusedTokens = 0 }: Output): GenerationUsage => ({
  promptTokens,
  completionTokens,
  tokensPerSecond,
  reusedPromptTokens: reusedTokens,
})

const probability = ({ id, text, logProbability }: Omit<TokenRecordOutput, 'top'>) => ({
  token: id,
  text,
  logProbability,
})
const tokensOf = (records: readonly TokenRecordOutput[] | undefined): GeneratedToken[] | null =>
  records?.map(record => ({ ...probability(record), alternatives: record.top.map(probability) })) ?? null

const isFinal = ({ state }: JobRecord) => finalStates.includes(state)

/** The record of the job once it has ended; undefined where the queue stops before. */
async function ending({ known, events }: Running): Promise<JobRecord | undefined> {
  if (known && isFinal(known)) return known
  for await (const event of events) if (event.kind === 'job' && isFinal(event.job)) return event.job
  return undefined
}

/**
 * Generates a text and waits for all of it; cancels the job when the request's client has gone.
 * @param onQueued called with the job's row id as soon as there is one
 * @throws what `start` and the job throw, CANCELLED, SHUTTING_DOWN
 */
export async function generate(context: RequestContext, input: GenerateInput, onQueued: (jobId: string) => void) {
  const running = await start(context, input)
  const { jobId, events } = running
  onQueued(jobId)
  const leave = attend(context, jobId)
  const { signal } = context
  let gone = false
  const goAway = () => {
    gone = true
    void leave(false)
    void events.return?.()
  }
  if (signal?.aborted) goAway()
  signal?.addEventListener('abort', goAway, { once: true })
  try {
    const job = await ending(running)
    if (gone) throw new DomainError('CANCELLED', 'The client has gone')
    if (!job) throw new DomainError('SHUTTING_DOWN', 'The server stops before the text is finished')
    const output = outputOf(job)
    return {
      text: output.text,
      finishReason: output.finishReason,
      usage: usageOf(output),
      tokens: tokensOf(output.logProbabilities),
    }
  } finally {
    signal?.removeEventListener('abort', goAway)
    await leave(true)
    await events.return?.()
  }
}

/** How much of a generation a reader has. */
export interface Seen {
  tokens: number
  characters: number
}

/**
 * The same piece by piece; ends after the event with `finishReason`.
 * @throws at once what `start` throws, later what the job throws
 */
export const generateStream = async (context: RequestContext, input: GenerateInput) =>
  follow(context, await start(context, input), { tokens: 0, characters: 0 })

/**
 * A generation that was queued before, from its beginning or from where a reader was.
 * @throws BAD_USER_INPUT, NOT_FOUND at once, later what the job throws
 */
export async function watchGeneration(context: RequestContext, jobId: string, seen: Seen) {
  const refuse = (field: string, given: number, least: number) => {
    throw new DomainError('BAD_USER_INPUT', `${field}: ${given}, expected at least ${least}`, { field: [field] })
  }
  if (seen.tokens < 0) refuse('afterIndex', seen.tokens - 1, -1)
  if (seen.characters < 0) refuse('afterOffset', seen.characters, 0)
  return follow(context, await join(context, jobId), seen)
}

function follow(context: RequestContext, running: Running, from: Seen): AsyncGenerator<GenerationEvent> {
  const { jobId, events, known } = running
  const leave = attend(context, jobId)
  let ended = false
  let left = false
  return closing(stream(), async () => {
    left = true
    await events.return?.()
    await leave(ended)
  })

  async function* stream(): AsyncGenerator<GenerationEvent> {
    const job = jobReference(jobId)
    const seen = { ...from }
    if (known && isFinal(known)) return yield* finish(known)
    for await (const event of events) {
      if (event.kind === 'job') {
        if (isFinal(event.job)) return yield* finish(event.job)
        continue
      }
      const { offset, tokenId, index } = event
      const first = index + 1 - event.tokenIds.length
      // A piece is missing, so this one waits for the whole: it was made before this process watched the job.
      if (offset > seen.characters || first > seen.tokens) continue
      // What the reader has already, from an earlier connection or an attempt that was lost, is not told again.
      const textDelta = event.textDelta.slice(seen.characters - offset)
      const tokenIds = event.tokenIds.slice(seen.tokens - first)
      if (textDelta === '' && tokenIds.length === 0) continue
      const tokens = tokensOf(event.logProbabilities?.slice(seen.tokens - first))
      yield { ...nothing, job, textDelta, offset: seen.characters, tokenIds, tokens, token: tokenId, index }
      seen.characters += textDelta.length
      seen.tokens += tokenIds.length
    }
    if (left) return
    ended = true
    await leave(true)
    throw new DomainError('SHUTTING_DOWN', 'The server stops before the text is finished')

    async function* finish(record: JobRecord): AsyncGenerator<GenerationEvent> {
      ended = true
      await leave(true)
      await events.return?.()
      const output = outputOf(record)
      const { finishReason, completionTokens } = output
      // Pieces do not reach a process that only follows the queue, nor who comes when all is done: the rest comes at once.
      const textDelta = output.text.slice(seen.characters)
      const tokensFrom = (from: number) => ({
        tokenIds: output.tokenIds.slice(from),
        tokens: tokensOf(output.logProbabilities?.slice(from)),
      })
      if (textDelta) {
        const rest = tokensFrom(seen.tokens)
        const index = Math.max(0, completionTokens - 1)
        yield {
          ...nothing,
          job,
          textDelta,
          offset: seen.characters,
          ...rest,
          token: output.tokenIds.at(-1) ?? null,
          index,
        }
        seen.tokens = completionTokens
      }
      yield {
        job,
        textDelta: '',
        offset: output.text.length,
        ...tokensFrom(seen.tokens),
        token: null,
        index: completionTokens,
        finishReason,
        usage: usageOf(output),
      }
    }
  }
}

const nothing = { finishReason: null, usage: null }
