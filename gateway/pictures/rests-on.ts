// How many samples a picture rests on, in words.
import { plainText } from './render-svg.js'

/** `6`, or `5 to 6` where they differ. */
export function span(counts: readonly number[]): string {
  const [least, most] = [Math.min(...counts), Math.max(...counts)]
  return least === most ? String(least) : `${least} to ${most}`
}

/** `demo version 1: 42 samples, 6 of each capability` */
export function restsOn({ probeSet, samples }: { probeSet: string; samples: readonly number[] }): string {
  const total = samples.reduce((sum, count) => sum + count, 0)
  const each = samples.length > 1 ? `, ${span(samples)} of each capability` : ''
  return `${plainText(probeSet)}: ${total} ${total === 1 ? 'sample' : 'samples'}${each}`
}
