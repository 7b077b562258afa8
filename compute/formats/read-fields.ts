// Reading fields of foreign configuration: a value of the wrong kind or range is refused by name, an absent one is undefined.
import { describeValue, invalid } from './tensor-file.js'

type Fields = Record<string, unknown>

/** Larger than any dimension of any model; keeps products of two within 2^53. */
export const maximumDimension = 2 ** 26
/** Layers: the deepest published language models have fewer than 200. */
export const maximumLayers = 10_000
/** Names and licences, in characters. */
const maximumNameLength = 200
/** Chat templates: the longest known have 100,000 characters. */
const maximumTemplateLength = 1024 * 1024

/** Texts in quotation marks: "12" is refused because it is one. */
const quoted = (value: unknown) => (typeof value === 'string' ? `"${describeValue(value)}"` : describeValue(value))

/** The first of `names` that is there (null counts as absent). */
function find(fields: Fields, names: readonly string[]): [name: string, value: unknown] | undefined {
  for (const name of names) {
    const value = Object.hasOwn(fields, name) ? fields[name] : undefined
    if (value !== undefined && value !== null) return [name, value]
  }
  return undefined
}

export function wholeField(
  fields: Fields,
  names: readonly string[],
  file: string,
  least = 1,
  most = maximumDimension,
): number | undefined {
  const found = find(fields, names)
  if (!found) return undefined
  const [name, value] = found
  if (typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most) return value
  throw invalid(`${file}: ${name} is ${quoted(value)}, expected a whole number from ${least} to ${most}`)
}

export function positiveField(fields: Fields, names: readonly string[], file: string): number | undefined {
  const found = find(fields, names)
  if (!found) return undefined
  const [name, value] = found
  if (typeof value === 'number' && Number.isFinite(value) && value > 0) return value
  throw invalid(`${file}: ${name} is ${quoted(value)}, expected a positive number`)
}

export function textField(fields: Fields, names: readonly string[]): string | undefined {
  const value = find(fields, names)?.[1]
  return typeof value === 'string' && value !== '' ? value : undefined
}

/** The beginning of a text that only people read: some files carry a whole licence where its name belongs. */
export const shortText = (fields: Fields, names: readonly string[]): string | undefined =>
  textField(fields, names)?.slice(0, maximumNameLength)

/** A name that decides something; refused where it cannot be one. */
export function nameField(fields: Fields, names: readonly string[], file: string): string | undefined {
  const text = textField(fields, names)
  if (text === undefined || text.length <= maximumNameLength) return text
  throw invalid(`${file}: ${names[0]} has ${text.length} characters, at most ${maximumNameLength}`)
}

export function flagField(fields: Fields, name: string): boolean | undefined {
  const value = find(fields, [name])?.[1]
  return typeof value === 'boolean' ? value : undefined
}

export function objectField(fields: Fields, name: string): Fields | undefined {
  const value = find(fields, [name])?.[1]
  return typeof value === 'object' && !Array.isArray(value) ? (value as Fields) : undefined
}

export function checkTemplate(template: string | undefined, file: string): string | undefined {
  if (template === undefined || template.length <= maximumTemplateLength) return template
  throw invalid(`${file}: the chat template has ${template.length} characters, at most ${maximumTemplateLength}`)
}
