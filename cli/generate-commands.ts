// Commands that let a model write: a continuation, a conversation.
import { createInterface } from 'node:readline/promises'
import { table } from '../lib/client/tables.js'
import { documents } from './documents.js'
import { findModel } from './find.js'
import { print, printJson } from './run-job.js'
import { note, type Session } from './session.js'

interface GenerationEvent {
  textDelta: string | null
  finishReason: string | null
  usage: {
    promptTokens: number
    completionTokens: number
    tokensPerSecond: number | null
    reusedPromptTokens: number
  } | null
  tokens: GeneratedToken[] | null
}

interface TokenProbability {
  token: number
  text: string
  logProbability: number
}
interface GeneratedToken extends TokenProbability {
  alternatives: TokenProbability[]
}

export interface GenerateOptions {
  maxTokens: number
  temperature: number
  topP?: number
  topK?: number
  minP?: number
  repetitionPenalty?: number
  seed?: number
  stop?: string[]
}

async function stream(
  session: Session,
  input: Record<string, unknown>,
  quiet = false,
): Promise<{ text: string; tokens: GeneratedToken[]; last?: GenerationEvent }> {
  let text = ''
  const tokens: GeneratedToken[] = []
  let last: GenerationEvent | undefined
  for await (const event of session.client.subscribe<GenerationEvent>(documents.generateStream, { input })) {
    text += event.textDelta ?? ''
    tokens.push(...(event.tokens ?? []))
    if (event.textDelta && !quiet) process.stdout.write(event.textDelta)
    if (event.finishReason) last = event
  }
  return { text, tokens, last }
}

/** One line per token: how probable it was, and what else was. */
function tokenTable(tokens: GeneratedToken[]): string {
  const percent = (t: TokenProbability) => `${(Math.exp(t.logProbability) * 100).toFixed(1)}%`
  const shown = (t: TokenProbability) => `${JSON.stringify(t.text)} ${percent(t)}`
  const rows = tokens.map(t => [JSON.stringify(t.text), percent(t), t.alternatives.map(shown).join('  ')])
  return table(['token', 'probability', 'most probable in its place'], rows)
}

export async function generate(
  session: Session,
  reference: string,
  prompt: string,
  o: GenerateOptions & { logProbabilities?: number },
) {
  const model = await findModel(session, reference)
  const { text, tokens, last } = await stream(session, { modelId: model.id, prompt, ...o }, session.json)
  const asked = o.logProbabilities !== undefined
  if (session.json)
    return printJson({ text, finishReason: last?.finishReason, usage: last?.usage, ...(asked && { tokens }) })
  if (asked) print(`\n\n${tokenTable(tokens)}`)
  const speed = last?.usage?.tokensPerSecond
  const count = last?.usage?.completionTokens ?? 0
  note(
    `\n[${count} ${count === 1 ? 'token' : 'tokens'}${speed ? `, ${speed.toFixed(1)}/s` : ''}, ${last?.finishReason}]`,
  )
  if (text.trim() !== '') return
  const { model: found } = await session.client.query<{ model: { chatTemplate: string | null } | null }>(
    documents.chatTemplate,
    { id: model.id },
  )
  const hint = emptyAnswerHint(reference, found?.chatTemplate ?? null)
  if (hint) note(hint)
}

/** A model that was made for conversations may end a bare text at once. */
export const emptyAnswerHint = (reference: string, chatTemplate: string | null): string | undefined =>
  chatTemplate === null
    ? undefined
    : `Nothing came, and the model has a chat template: it may answer in \`hartonomous chat ${reference}\`.`

export async function chat(session: Session, reference: string, o: GenerateOptions & { system?: string }) {
  const model = await findModel(session, reference)
  const messages: { role: string; content: string }[] = o.system ? [{ role: 'system', content: o.system }] : []
  const { system: _system, ...sampling } = o
  const person = process.stdin.isTTY
  const lines = createInterface({ input: process.stdin, output: person ? process.stderr : undefined, prompt: 'you> ' })
  const prompt = () => person && lines.prompt()
  // At a terminal readline takes Ctrl-C for itself.
  lines.on('SIGINT', () => process.kill(process.pid, 'SIGINT'))
  if (person) note(`Talking to ${model.name}; an empty line ends it.`)
  prompt()
  for await (const line of lines) {
    if (!line.trim()) break
    messages.push({ role: 'user', content: line })
    const { text } = await stream(session, { modelId: model.id, messages, ...sampling })
    process.stdout.write('\n')
    messages.push({ role: 'assistant', content: text })
    prompt()
  }
  lines.close()
}
