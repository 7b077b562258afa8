// What a recipe asks for beyond its layers, one key per stage of the build. Both planes speak it, like the manifest.
import { z } from 'zod'
import { fusionSchema } from './fusion.js'
import { healingSchema } from './healing.js'
import { hashSchema } from './manifest.js'
import { recipeQuantizationSchema } from './quantization.js'

/** One number for all layers, or one for each layer of the student. */
const countsSchema = z.union([z.number().int().min(0), z.array(z.number().int().min(0)).min(1)])
export type Counts = z.infer<typeof countsSchema>

/**
 * Inputs of a projection beyond which it is not fitted anew. There the sums of products take 512 MB and their decomposition as much again, and
 * solving for 2,048 outputs takes some six minutes (1.2e9 operations a second, in JavaScript).
 */
export const maximumFitInputs = 8192

/** Samples that are measured on: of the probe split, so that the validation split judges what was never seen. */
export const calibrationSchema = z.object({
  /** Payload: the probe set. */
  probeSet: hashSchema,
  /** Top-level capability slugs; absent: all of the probe set. */
  capabilities: z.array(z.string()).min(1).optional(),
  samplesPerCapability: z.number().int().min(1).default(8),
  /** Prompt and completion are joined and cut to this many tokens. */
  maxTokens: z.number().int().min(2).default(256),
})
export type Calibration = z.infer<typeof calibrationSchema>

/** What goes: whole key/value heads with the query heads that share them, or as many query heads from every key/value head. */
export const headUnits = ['KEY_VALUE_GROUP', 'QUERY_HEAD'] as const
export type HeadUnit = (typeof headUnits)[number]

/**
 * TASK_LOSS: measured, the heads without which the loss rises least, layer after layer given those already gone. GRADIENT: |d loss / d gate|
 * (Michel et al. 2019). RANDOM: by seed, as a control. MAGNITUDE: norm of the heads' weights, for comparison only. GIVEN: named one by one.
 */
export const headMetrics = ['TASK_LOSS', 'GRADIENT', 'RANDOM', 'MAGNITUDE', 'GIVEN'] as const
export type HeadMetric = (typeof headMetrics)[number]

export const headPruningSchema = z.object({
  unit: z.enum(headUnits).default('KEY_VALUE_GROUP'),
  metric: z.enum(headMetrics),
  /** Units to remove from each layer; query heads: from each of its key/value groups. Absent with GIVEN. */
  remove: countsSchema.optional(),
  /** With GIVEN: per layer of the student the key/value heads or query heads that go. */
  heads: z.array(z.array(z.number().int().min(0))).optional(),
  seed: z.number().int().default(0),
  /** Whether output projections are fitted anew, where that lowers the loss on held-out samples. */
  correct: z.boolean().default(false),
})
export type HeadPruning = z.infer<typeof headPruningSchema>

/** ACTIVATION: size of what the unit gives on samples (Minitron, arXiv 2407.14679). The others as for heads. */
export const neuronMetrics = ['ACTIVATION', 'RANDOM', 'MAGNITUDE'] as const

export const feedForwardPruningSchema = z.object({
  metric: z.enum(neuronMetrics).default('ACTIVATION'),
  /** Hidden units that stay in each layer. */
  keep: countsSchema,
  seed: z.number().int().default(0),
  correct: z.boolean().default(false),
})
export type FeedForwardPruning = z.infer<typeof feedForwardPruningSchema>

/** What a student is written as once it is registered: a format, as stored or (after the first `_`) with all matrices in one type. */
export const studentExports = [
  'SAFETENSORS',
  'SAFETENSORS_BF16',
  'SAFETENSORS_PARENT',
  'GGUF',
  'GGUF_BF16',
  'GGUF_PARENT',
  'GGUF_F16',
  'GGUF_Q8_0',
  'GGUF_Q4_1',
  'GGUF_Q4_0',
  'ONNX',
  'ONNX_F16',
  'ONNX_Q8_0',
  'ONNX_Q4_0',
] as const
export type StudentExport = (typeof studentExports)[number]

/**
 * Parameters by stage; an absent key is a stage that the recipe does not ask for. The keys stand in the order in which a build runs them
 * (compute/handlers/build-stages.ts has what each one does). Rows of earlier versions must stay readable: new parameters are optional.
 */
export const buildStagesSchema = z.object({
  /** What measured stages measure on. */
  calibration: calibrationSchema.optional(),
  /** Whether projections at and behind cuts are fitted anew, kept where that lowers the loss on held-out samples. */
  correctCuts: z.boolean().optional(),
  headPruning: headPruningSchema.optional(),
  feedForwardPruning: feedForwardPruningSchema.optional(),
  /** Training after a teacher, kept only where held-out loss falls. */
  healing: healingSchema.optional(),
  /** Matrices as 4- or 8-bit codes, and what that changed. */
  quantization: recipeQuantizationSchema.optional(),
  /** What of the graph is computed at once, where that is worth it on the device that builds; outputs are compared on the probe set. */
  fusion: fusionSchema.extend({ probeSet: hashSchema.optional() }).optional(),
  /** Jobs of their own, queued when the student is registered. */
  exports: z.array(z.enum(studentExports)).min(1).optional(),
})
export type BuildStages = z.infer<typeof buildStagesSchema>

const measuring: readonly string[] = ['TASK_LOSS', 'GRADIENT', 'ACTIVATION'] satisfies (
  | HeadMetric
  | FeedForwardPruning['metric']
)[]

/** Whether pruning runs the model, so that it needs samples. */
export const measures = (pruning: { metric: string; correct: boolean } | undefined): boolean =>
  pruning !== undefined && (pruning.correct || measuring.includes(pruning.metric))

/** Whether a build computes for more than a moment, so that it must wait for a device. */
export const needsDevice = ({
  correctCuts,
  headPruning,
  feedForwardPruning,
  healing,
  quantization,
  fusion,
}: BuildStages): boolean =>
  correctCuts === true ||
  healing !== undefined ||
  quantization !== undefined ||
  fusion !== undefined ||
  measures(headPruning) ||
  measures(feedForwardPruning) ||
  feedForwardPruning?.metric === 'MAGNITUDE'

/** The number for a layer. */
export const countOf = (counts: Counts, layer: number): number =>
  typeof counts === 'number' ? counts : (counts[layer] ?? 0)

/** What a proposed student asks for: these key/value heads go, named one by one; projections at its cuts are fitted to these samples. Null: nothing. */
export function proposedStages(proposed: {
  groups?: number[][] | undefined
  calibration?: Calibration | undefined
}): BuildStages | null {
  const { groups: heads, calibration } = proposed
  if (!heads && !calibration) return null
  return buildStagesSchema.parse({
    ...(calibration && { calibration, correctCuts: true }),
    ...(heads && { headPruning: { unit: 'KEY_VALUE_GROUP', metric: 'GIVEN', heads } }),
  })
}
