// Reading fields of foreign configuration: a value of the wrong kind or range is refused by name, an absent one is undefined.
import { describeValue, invalid } from './tensor-file.js'

type Fields = Record<string, unknown>

/** Larger than any dimension of any model; keeps products of two within 2^53. */
export const maximumDimension = 2 ** 26

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
  throw invalid(`${file}: ${name} is ${describeValue(value)}, expected a whole number from ${least} to ${most}`)
}

export function positiveField(fields: Fields, names: readonly string[], file: string): number | undefined {
  const found = find(fields, names)
  if (!found) return undefined
  const [name, value] = found
  if (typeof value === 'number' && Number.isFinite(value) && value > 0) return value
  throw invalid(`${file}: ${name} is ${describeValue(value)}, expected a positive number`)
}

export function textField(fields: Fields, names: readonly string[]): string | undefined {
  const value = find(fields, names)?.[1]
  return typeof value === 'string' && value !== '' ? value : undefined
}

export function flagField(fields: Fields, name: string): boolean | undefined {
  const value = find(fields, [name])?.[1]
  return typeof value === 'boolean' ? value : undefined
}

export function objectField(fields: Fields, name: string): Fields | undefined {
  const value = find(fields, [name])?.[1]
  return typeof value === 'object' && !Array.isArray(value) ? (value as Fields) : undefined
}
