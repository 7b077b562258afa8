// How the learning rate changes from step to step.

export const scheduleNames = ['COSINE', 'LINEAR', 'CONSTANT'] as const
export type ScheduleName = (typeof scheduleNames)[number]

export interface Schedule {
  kind: ScheduleName
  /** The highest rate. */
  peak: number
  steps: number
  /** Steps of rising linearly to the peak, the last of them at it. */
  warmup: number
}

/** The rate of a step, counted from 1: up to the peak, then half a cosine or a line down to 0 behind the last step, or level. */
export function learningRateAt({ kind, peak, steps, warmup }: Schedule, step: number): number {
  const done = step - 1
  if (done < warmup) return (peak * step) / warmup
  const share = (done - warmup) / Math.max(1, steps - warmup)
  if (kind === 'CONSTANT') return peak
  return kind === 'LINEAR' ? peak * (1 - share) : (peak / 2) * (1 + Math.cos(Math.PI * share))
}
