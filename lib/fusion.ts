// What of a model's graph can be computed together, as a mutation, a recipe, a manifest and a job say it.
import { z } from 'zod'

export const fusions = ['NORM_WEIGHT', 'QKV', 'GATE_UP', 'NORM_ATTENTION', 'RESIDUAL_NORM'] as const
export type Fusion = (typeof fusions)[number]

export const fusionSchema = z.object({
  /** Least speed-up for a fusion to be applied: time without it over time with it, median of rounds. */
  threshold: z.number().min(0).max(1000).default(1.2),
  /** Holds the threshold against all that can be applied at once, instead of each by itself. */
  together: z.boolean().default(false),
  /** What is tried; absent: everything. */
  only: z.array(z.enum(fusions)).min(1).optional(),
  /** Largest difference of a logit, as a share of the greatest one: float32 sums in another order stay below 1e-5 of it. */
  tolerance: z.number().positive().max(1).default(1e-4),
  /** Rounds in which both forms are timed in turns. */
  rounds: z.number().int().min(3).max(101).default(9),
})
export type FusionOptions = z.output<typeof fusionSchema>

/** One token of one sequence at a time, or many of a prompt. */
export const fusionModes = ['STEP', 'PROMPT'] as const
export type FusionMode = (typeof fusionModes)[number]

/** What became of a fusion: the engine always does it; applied; below the threshold; outputs differed; nothing to fuse. */
export const fusionStates = ['BUILT_IN', 'APPLIED', 'BELOW_THRESHOLD', 'OUTPUTS_DIFFER', 'NOT_APPLICABLE'] as const
export type FusionState = (typeof fusionStates)[number]

export const fusionRowSchema = z.object({
  /** ALL: everything that could be applied, at once. */
  fusion: z.enum([...fusions, 'ALL']),
  mode: z.enum(fusionModes),
  /** Places in the graph. */
  sites: z.number().int(),
  state: z.enum(fusionStates),
  /** Time without over time with it: median over the rounds, and its quartiles; absent where nothing was timed. */
  speedup: z.number().optional(),
  lower: z.number().optional(),
  upper: z.number().optional(),
  /** Milliseconds with it, median: of a token, or of the prompt. */
  milliseconds: z.number().optional(),
  /** Why it is not applied, where that is not the threshold; of what is applied, what it changes beside the graph. */
  reason: z.string().optional(),
})
export type FusionRow = z.infer<typeof fusionRowSchema>

export const fusionCheckSchema = z.object({
  /** Positions whose logits were compared. */
  positions: z.number().int(),
  /** Largest difference of a logit, as a share of the greatest one at its position. */
  largestDeviation: z.number(),
  /** Share of positions with the same likeliest token. */
  agreement: z.number(),
})
export type FusionCheck = z.infer<typeof fusionCheckSchema>
