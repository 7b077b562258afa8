// Generations: a job of the interactive lane, watched from before it can begin; given up when its client has gone.
import type { JobOutput } from '../../compute/pool/job-types.js'
import { finalStates, type JobEvent, type JobRecord } from '../../compute/pool/queue.js'
import { aliveModel } from '../../db/models.js'
import { DomainError, type ErrorCode, errorTable, isDomainError } from '../../lib/errors.js'
import { closing } from '../build/closing.js'
import { enqueue } from '../build/enqueue.js'
import { liveModel, runnableManifest } from '../build/live-model.js'
import type { JobEffect, RequestContext } from '../build/platform.js'
import type { FinishReason, GenerateInput, GenerationEvent, GenerationUsage } from './generate.type.js'

/** Longer ones fit no model's context, at a few characters per token. */
const maximumPromptCharacters = 4_000_000
const maximumMessages = 1_000

interface Running {
  jobId: string
  events: AsyncIterableIterator<JobEvent>
}

function checkInput(input: GenerateInput): void {
  const refuse = (field: string, message: string) => {
    throw new DomainError('BAD_USER_INPUT', `${field}: ${message}`, { field: ['input', field] })
  }
  const { prompt, messages, maxTokens, temperature, topP, topK, stop, userId } = input
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
  if (stop && stop.length > 16) refuse('stop', `${stop.length} texts, at most 16`)
  if (stop?.includes('')) refuse('stop', 'an empty text would end every answer')
  if (userId != null && userId.length > 200) refuse('userId', `${userId.length} characters, at most 200`)
}

/**
 * Queues a generation and opens its events in the same transaction, so that none is missed.
 * @throws BAD_USER_INPUT, NOT_FOUND, UNSUPPORTED_ARCHITECTURE, NO_TOKENIZER
 */
async function start({ platform, tenantId }: RequestContext, input: GenerateInput): Promise<Running> {
  checkInput(input)
  const { modelId, prompt, messages, maxTokens, temperature, topP, topK, seed, stop, userId } = input
  await runnableManifest(platform.payloads, await liveModel(platform.db.read, tenantId, modelId))
  let events: AsyncIterableIterator<JobEvent> | undefined
  try {
    return await platform.db.tx(async em => {
      const model = await liveModel(em, tenantId, modelId)
      const job = await enqueue(em, platform, {
        tenantId,
        type: 'model.generate',
        modelId: model.id,
        input: {
          manifest: model.manifestHash,
          maxTokens,
          temperature,
          ...(prompt == null ? {} : { prompt }),
          ...(messages == null ? {} : { messages: messages.map(({ role, content }) => ({ role, content })) }),
          ...(topP == null ? {} : { topP }),
          ...(topK == null ? {} : { topK }),
          ...(seed == null ? {} : { seed }),
          ...(stop == null ? {} : { stop }),
        },
        context: userId == null ? null : { userId },
      })
      events = platform.queue.watch(job.id)
      return { jobId: job.id, events }
    })
  } catch (error) {
    await events?.return?.()
    throw error
  }
}

export const generateEffect: JobEffect<'model.generate'> = {
  async claim(em, job, input) {
    await aliveModel(em, job.tenantId, job.modelId!)
    return input
  },
}

/** Nobody waits for it any more. */
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

const usageOf = ({ promptTokens, completionTokens, tokensPerSecond }: Output): GenerationUsage => ({
  promptTokens,
  completionTokens,
  tokensPerSecond,
})

const isFinal = (event: JobEvent) => event.kind === 'job' && finalStates.includes(event.job.state)

/**
 * Generates a text and waits for all of it; cancels the job when the request's client has gone.
 * @param onQueued called with the job's row id as soon as there is one
 * @throws what `start` and the job throw, CANCELLED, SHUTTING_DOWN
 */
export async function generate(context: RequestContext, input: GenerateInput, onQueued: (jobId: string) => void) {
  const { jobId, events } = await start(context, input)
  onQueued(jobId)
  const { signal } = context
  const leave = () => void giveUp(context, jobId)
  if (signal?.aborted) leave()
  signal?.addEventListener('abort', leave, { once: true })
  try {
    for await (const event of events) {
      if (event.kind !== 'job' || !isFinal(event)) continue
      const output = outputOf(event.job)
      return { text: output.text, finishReason: output.finishReason, usage: usageOf(output) }
    }
    throw new DomainError('SHUTTING_DOWN', 'The server stops before the text is finished')
  } finally {
    signal?.removeEventListener('abort', leave)
    await events.return?.()
  }
}

/**
 * The same piece by piece; ends after the event with `finishReason`. A reader that leaves cancels the job.
 * @throws at once what `start` throws, later what the job throws
 */
export async function generateStream(
  context: RequestContext,
  input: GenerateInput,
): Promise<AsyncGenerator<GenerationEvent>> {
  const { jobId, events } = await start(context, input)
  let ended = false
  let left = false
  return closing(stream(), async () => {
    left = true
    await events.return?.()
    if (!ended) await giveUp(context, jobId)
  })

  async function* stream(): AsyncGenerator<GenerationEvent> {
    let text = ''
    let index = 0
    for await (const event of events) {
      if (event.kind === 'delta') {
        text += event.textDelta
        index = event.index
        yield { textDelta: event.textDelta, token: event.tokenId, index, finishReason: null, usage: null }
      } else if (isFinal(event)) {
        ended = true
        const output = outputOf(event.job)
        // Pieces do not reach a process that only follows the queue, nor those of an attempt that was lost: the rest comes at once.
        const rest = output.text.startsWith(text) ? output.text.slice(text.length) : ''
        const completed = output.completionTokens
        const last = Math.max(index, completed - 1)
        if (rest)
          yield { textDelta: rest, token: output.tokenIds.at(-1) ?? null, index: last, finishReason: null, usage: null }
        yield {
          textDelta: '',
          token: null,
          index: Math.max(index, completed),
          finishReason: output.finishReason,
          usage: usageOf(output),
        }
        return
      }
    }
    if (left) return
    ended = true
    throw new DomainError('SHUTTING_DOWN', 'The server stops before the text is finished')
  }
}
