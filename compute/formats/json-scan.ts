// Checks foreign JSON before it is parsed: nesting, duplicate keys of the outermost object, encoding.
import { describeValue, invalid } from './tensor-file.js'

/** Deeper than any header, config or tokenizer file; a thousand brackets are an attack on recursive readers. */
export const maximumJsonDepth = 64

const quote = 0x22
const backslash = 0x5c
const colon = 0x3a
const isSpace = (byte: number | undefined) => byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09

/**
 * Parses UTF-8 JSON whose outermost value is an object.
 * @throws DomainError INVALID_MODEL_FILE naming the file and the byte or key at fault
 */
export function parseJsonObject(
  bytes: Uint8Array,
  file: string,
  maximumDepth = maximumJsonDepth,
): Record<string, unknown> {
  const keys = new Set<string>()
  let depth = 0
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i]!
    if (byte === 0x7b || byte === 0x5b) {
      if (++depth > maximumDepth)
        throw invalid(`${file}: JSON is nested deeper than ${maximumDepth} levels at byte ${i}`)
    } else if (byte === 0x7d || byte === 0x5d) depth--
    else if (byte === quote) {
      const begin = i
      for (i++; i < bytes.length && bytes[i] !== quote; i++) if (bytes[i] === backslash) i++
      if (depth !== 1) continue
      let after = i + 1
      while (isSpace(bytes[after])) after++
      if (bytes[after] !== colon) continue
      const key = Buffer.from(bytes.buffer, bytes.byteOffset + begin, i + 1 - begin).toString('utf8')
      // Two spellings of one key (\u0061 and a) are the same key to the parser.
      const plain = key.includes('\\') ? unescapeKey(key, file) : key
      if (keys.has(plain)) throw invalid(`${file}: the key ${describeValue(plain)} appears twice`)
      keys.add(plain)
    }
  }
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (error) {
    throw invalid(`${file}: not valid UTF-8 (${(error as Error).message})`)
  }
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw invalid(`${file}: not valid JSON (${describeValue((error as Error).message)})`)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw invalid(`${file}: the JSON is not an object`)
  }
  return value as Record<string, unknown>
}

function unescapeKey(key: string, file: string): string {
  try {
    return `"${JSON.parse(key)}"`
  } catch {
    throw invalid(`${file}: malformed key ${describeValue(key)}`)
  }
}
