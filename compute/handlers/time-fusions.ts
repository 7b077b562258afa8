// Two forms of one model timed in turns on this device: a token at a time, and a prompt.
import type { Fusion, FusionMode } from '../../lib/fusion.js'
import type { Manifest } from '../../lib/manifest.js'
import { type LoadedModel, openModel } from '../inference/model.js'
import type { HandlerContext } from './handler.js'

/** Tokens decoded one at a time in each round. */
const stepsPerRound = 16
/** Tokens of the prompt of each round: as many as run at once. */
const promptTokens = 128

export interface Form {
  manifest: Manifest
  fusions: Partial<Record<'step' | 'generate', readonly Fusion[]>>
}

export interface Ratio {
  /** Time of the first over time of the second: median over the rounds, and quartiles. */
  speedup: number
  lower: number
  upper: number
  /** Of the second, median. */
  milliseconds: number
}

const quantile = (values: readonly number[], q: number) => {
  const sorted = values.toSorted((a, b) => a - b)
  const at = (sorted.length - 1) * q
  const [low, high] = [sorted[Math.floor(at)]!, sorted[Math.ceil(at)]!]
  return low + (high - low) * (at - Math.floor(at))
}

/** Any tokens will do: what they are changes no time. */
async function timeOnce(model: LoadedModel, prompt: readonly number[], signal: AbortSignal) {
  const sequence = model.startSequence()
  const begin = performance.now()
  await sequence.append(prompt, signal)
  const prompted = performance.now()
  for (let i = 0; i < stepsPerRound; i++) await sequence.append([prompt[i % prompt.length]!], signal)
  return { PROMPT: prompted - begin, STEP: (performance.now() - prompted) / stepsPerRound }
}

/** @param round called after each round with those done */
export async function timeForms(
  before: Form,
  after: Form,
  rounds: number,
  context: HandlerContext,
  round: (done: number) => void,
): Promise<Record<FusionMode, Ratio>> {
  const open = ({ manifest, fusions }: Form) => openModel(manifest, { ...context, fusions })
  const opened: LoadedModel[] = []
  try {
    for (const form of [before, after]) opened.push(await open(form))
    const { contextLength, vocabularySize } = opened[0]!.dimensions
    const length = Math.min(promptTokens, contextLength - stepsPerRound)
    const prompt = Array.from({ length: Math.max(1, length) }, (_, i) => (i * 7919) % vocabularySize)
    const times: Record<FusionMode, [number[], number[]]> = { STEP: [[], []], PROMPT: [[], []] }
    // The first round opens sessions and is not counted.
    for (let i = -1; i < rounds; i++) {
      context.signal.throwIfAborted()
      const order = i % 2 === 0 ? [0, 1] : [1, 0]
      for (const which of order) {
        const found = await timeOnce(opened[which]!, prompt, context.signal)
        if (i >= 0) for (const mode of ['STEP', 'PROMPT'] as const) times[mode][which as 0 | 1].push(found[mode])
      }
      round(i + 1)
    }
    const ratio = ([first, second]: [number[], number[]]): Ratio => {
      const ratios = first.map((time, i) => time / second[i]!)
      return {
        speedup: quantile(ratios, 0.5),
        lower: quantile(ratios, 0.25),
        upper: quantile(ratios, 0.75),
        milliseconds: quantile(second, 0.5),
      }
    }
    return { STEP: ratio(times.STEP), PROMPT: ratio(times.PROMPT) }
  } finally {
    for (const model of opened) await model.dispose()
  }
}
