// Texts that people give: their length, and that the database can hold them.
import { DomainError } from '../../lib/errors.js'

/**
 * The text without white space around it, or null where nothing is left.
 * @throws BAD_USER_INPUT where it is longer than `maximum`, or has a NUL character (SQLite would end it there)
 */
export function checkText(text: string | null | undefined, maximum: number, ...field: string[]): string | null {
  const trimmed = text?.trim() ?? ''
  const refuse = (message: string) =>
    new DomainError('BAD_USER_INPUT', `${field.join('.')}: ${message}`, { field: ['input', ...field] })
  if (trimmed.length > maximum) throw refuse(`${trimmed.length} characters, at most ${maximum}`)
  if (trimmed.includes('\0')) throw refuse('contains a NUL character')
  return trimmed || null
}
