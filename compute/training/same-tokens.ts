// Whether two models mean the same by a token id: what a student can be taught by another model's probabilities.
import { DomainError } from '../../lib/errors.js'
import type { Manifest } from '../../lib/manifest.js'
import type { PayloadStore } from '../../payloads/payload-store.js'

interface TokenizerJson {
  model?: { vocab?: Record<string, number> | [string, number][] }
  added_tokens?: { id: number; content: string }[]
}

/** Token by id. */
async function tokensOf(manifest: Manifest, payloads: Pick<PayloadStore, 'get'>): Promise<Map<number, string>> {
  const { tokenizer } = manifest
  if (!tokenizer)
    throw new DomainError('NO_TOKENIZER', `${nameOf(manifest)} has no tokenizer; it cannot be trained on text`)
  const json = JSON.parse(Buffer.from(await payloads.get(tokenizer.tokenizerJson)).toString('utf8')) as TokenizerJson
  const vocab = json.model?.vocab ?? {}
  const tokens = new Map<number, string>()
  if (Array.isArray(vocab)) for (const [id, [token]] of vocab.entries()) tokens.set(id, token)
  else for (const [token, id] of Object.entries(vocab)) tokens.set(id, token)
  for (const { id, content } of json.added_tokens ?? []) tokens.set(id, content)
  return tokens
}

const nameOf = ({ sourceName, architecture }: Manifest) => sourceName ?? `a ${architecture} model`

/** Differences that a message names. */
const shown = 5

/** @throws VOCABULARY_MISMATCH naming the first tokens that differ, NO_TOKENIZER */
export async function checkSameTokens(
  teacher: Manifest,
  student: Manifest,
  payloads: Pick<PayloadStore, 'get'>,
): Promise<void> {
  if (teacher.tokenizer && teacher.tokenizer.tokenizerJson === student.tokenizer?.tokenizerJson) return
  const [own, other] = [await tokensOf(student, payloads), await tokensOf(teacher, payloads)]
  const ids = [...new Set([...own.keys(), ...other.keys()])].sort((a, b) => a - b)
  const different = ids.filter(id => own.get(id) !== other.get(id))
  if (different.length === 0) return
  const word = (token: string | undefined) => (token === undefined ? 'nothing' : JSON.stringify(token))
  const examples = different
    .slice(0, shown)
    .map(id => `token ${id} is ${word(other.get(id))} for the teacher and ${word(own.get(id))} for the student`)
  const more = different.length > shown ? ` and ${different.length - shown} more` : ''
  throw new DomainError(
    'VOCABULARY_MISMATCH',
    `Teacher and student do not have the same tokens: ${examples.join('; ')}${more}`,
    { field: ['input', 'teacherId'] },
  )
}
