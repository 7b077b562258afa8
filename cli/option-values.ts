// What options may be: each checks a text, so that what is out of range is wrong usage (2) before anything starts.
import { InvalidArgumentError } from 'commander'

/** A number within [least, most]. */
export const number =
  (least = Number.NEGATIVE_INFINITY, most = Number.POSITIVE_INFINITY) =>
  (text: string): number => {
    const value = Number(text)
    if (text.trim() === '' || !Number.isFinite(value)) throw new InvalidArgumentError('It is not a number.')
    if (value < least || value > most) {
      const range = most === Number.POSITIVE_INFINITY ? `at least ${least}` : `${least} to ${most}`
      throw new InvalidArgumentError(`Expected ${range}.`)
    }
    return value
  }

/** A whole number within [least, most]. */
export const wholeNumber = (least = Number.MIN_SAFE_INTEGER, most = Number.POSITIVE_INFINITY) => {
  const inRange = number(least, most)
  return (text: string): number => {
    const value = inRange(text)
    if (!Number.isSafeInteger(value)) throw new InvalidArgumentError('It is not a whole number.')
    return value
  }
}

/** One of a few words, in any case. */
export const oneOf =
  (allowed: readonly string[]) =>
  (text: string): string => {
    const value = text.toLowerCase()
    if (!allowed.includes(value)) throw new InvalidArgumentError(`Allowed are ${allowed.join(', ')}.`)
    return value
  }

/** An address such as `http://127.0.0.1:4000`, without the slash at its end. */
export function webAddress(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (!url || !/^https?:$/.test(url.protocol))
    throw new InvalidArgumentError('Expected an address such as http://127.0.0.1:4000.')
  return text.replace(/\/+$/, '')
}

export interface MixtureOption {
  name: string
  weights: { capability: string; weight: number }[]
}

/** `name=slug:weight,slug:weight`; a weight left out is 1. */
export function mixtureOption(text: string): MixtureOption {
  const [, name, list] = /^([^=]+)=(.+)$/.exec(text) ?? []
  if (!name || !list) throw new InvalidArgumentError('Expected name=slug:weight,slug:weight.')
  const weights = list.split(',').map(part => {
    const [capability = '', weight = '1'] = part.split(':')
    if (capability === '' || !(Number(weight) > 0))
      throw new InvalidArgumentError(`"${part}": expected a slug and a weight above 0, as translation:2.`)
    return { capability, weight: Number(weight) }
  })
  return { name, weights }
}
