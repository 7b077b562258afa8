// Token ids -> pieces of text while they are made: never half a character, never a part of a stop string.
import type { ModelTokenizer } from '../formats/tokenizer.js'

export interface TextStream {
  /** Text that became certain with this token; often '' while a character is incomplete. */
  push(id: number): string
  /** What is left at the end; incomplete bytes become U+FFFD. */
  flush(): string
}

/** Tokens of the prompt that give the first new token its spacing: some decoders drop the space that begins a text. */
const contextTokens = 8

/**
 * Decodes as a difference: the text of a window with the new tokens minus the text without them, since a decoder may change what
 * stands before (spaces) and a character may need several byte tokens.
 */
export function textStream(tokenizer: Pick<ModelTokenizer, 'decode'>, promptIds: readonly number[]): TextStream {
  let emitted = promptIds.slice(-contextTokens)
  let pending: number[] = []
  const difference = () => {
    const before = tokenizer.decode(emitted)
    return { text: tokenizer.decode([...emitted, ...pending]).slice(before.length) }
  }
  const advance = () => {
    emitted = [...emitted, ...pending].slice(-contextTokens)
    pending = []
  }
  return {
    push(id) {
      pending.push(id)
      const { text } = difference()
      if (text === '' || text.endsWith('\ufffd')) return ''
      advance()
      return text
    },
    flush() {
      if (pending.length === 0) return ''
      const { text } = difference()
      advance()
      return text
    },
  }
}

export interface StopFilter {
  /** Text that may be shown; `stopped` once a stop string has come, whose text and everything after it is kept back. */
  push(text: string): { text: string; stopped: boolean }
  /** What was held back and turned out to be no stop string. */
  flush(): string
}

/** Holds back the end of the text as long as it could become a stop string. */
export function stopFilter(stops: readonly string[]): StopFilter {
  let held = ''
  return {
    push(text) {
      held += text
      const found = stops.map(stop => held.indexOf(stop)).filter(at => at >= 0)
      if (found.length > 0) {
        const shown = held.slice(0, Math.min(...found))
        held = ''
        return { text: shown, stopped: true }
      }
      const hold = Math.max(0, ...stops.map(stop => overlap(held, stop)))
      const shown = held.slice(0, held.length - hold)
      held = held.slice(held.length - hold)
      return { text: shown, stopped: false }
    },
    flush() {
      const rest = held
      held = ''
      return rest
    },
  }
}

/** Length of the longest end of `text` that begins `stop`. */
function overlap(text: string, stop: string): number {
  for (let length = Math.min(text.length, stop.length - 1); length > 0; length--) {
    if (text.endsWith(stop.slice(0, length))) return length
  }
  return 0
}
