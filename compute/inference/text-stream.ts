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

/** An unfinished character has at most so many bytes, each of which a decoder may show as U+FFFD. */
const unfinishedBytes = 3
/** Tokens after which bytes that make no character are given up. */
const mostPending = 256

/**
 * Decodes as a difference: the text of a window with the new tokens minus the text without them, since a decoder may change what
 * stands before (spaces) and a character may need several byte tokens. What ends in U+FFFD may be half a character yet: all before is
 * certain and given out, though its tokens stay in the window.
 */
export function textStream(tokenizer: Pick<ModelTokenizer, 'decode'>, promptIds: readonly number[]): TextStream {
  let emitted = promptIds.slice(-contextTokens)
  let pending: number[] = []
  /** Characters of the pending tokens' text that were given out. */
  let shown = 0
  const difference = () => {
    const before = tokenizer.decode(emitted)
    return tokenizer.decode([...emitted, ...pending]).slice(before.length)
  }
  const advance = () => {
    emitted = [...emitted, ...pending].slice(-contextTokens)
    pending = []
    shown = 0
  }
  return {
    push(id) {
      pending.push(id)
      const text = difference()
      if (text === '') return ''
      const broken = /\ufffd*$/.exec(text)![0].length
      const uncertain = broken > unfinishedBytes && pending.length > mostPending ? 0 : Math.min(broken, unfinishedBytes)
      const end = text.length - uncertain
      const piece = text.slice(shown, end)
      if (uncertain === 0) advance()
      else shown = Math.max(shown, end)
      return piece
    },
    flush() {
      if (pending.length === 0) return ''
      const rest = difference().slice(shown)
      advance()
      return rest
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
