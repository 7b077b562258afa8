// How a student is trained after its teacher: what a recipe's `healing` and `distillStudent` may say. Both planes speak it, like the manifest.
import { z } from 'zod'
import { hashSchema } from './manifest.js'

/** ALL: every weight. LAYERS: those of the named layers. NORMS: the norms' weights. LORA: low-rank changes of linear layers, merged at the end. */
export const trainedParts = ['ALL', 'LAYERS', 'NORMS', 'LORA'] as const
export const learningRateSchedules = ['COSINE', 'LINEAR', 'CONSTANT'] as const
export const hiddenLossKinds = ['MSE', 'COSINE'] as const
/** The linear layers that low-rank changes may be made to. */
export const loraTargets = ['q', 'k', 'v', 'qkv', 'o', 'gate', 'up', 'down'] as const

/** Low-rank changes where nobody says which. */
export const loraDefaults = { rank: 16, alpha: 32, targets: ['q', 'k', 'v', 'o', 'gate', 'up', 'down'] } satisfies {
  rank: number
  alpha: number
  targets: (typeof loraTargets)[number][]
}

const share = z.number().min(0).max(1)

export const healingSchema = z.object({
  /** Payload: JSONL of {task, subtask, split, prompt, completion}; `probe` lines are trained on, `validation` lines are held out. */
  data: hashSchema,
  /** Top-level capability slugs; absent: all of the data. */
  capabilities: z.array(z.string()).min(1).optional(),
  /** Manifest of the teacher; absent: the parent. */
  teacher: hashSchema.optional(),
  /** Tokens trained on, as whole rows; texts are taken again where they are fewer. */
  tokens: z.number().int().min(64).max(100_000_000).default(40_960),
  /** Tokens of a row. */
  sequence: z.number().int().min(8).max(8192).default(256),
  /** Rows of one pass, and passes of one step. */
  batchRows: z.number().int().min(1).max(1024).default(1),
  accumulation: z.number().int().min(1).max(1024).default(1),
  /** The best of those measured on SmolLM2-135M with one row of 256 tokens a step (one seed each): perplexity 28.6; 1e-3 gave 37.4. */
  learningRate: z.number().positive().max(1).default(2e-4),
  schedule: z.enum(learningRateSchedules).default('COSINE'),
  /** Share of the steps in which the learning rate rises. */
  warmup: share.default(0.1),
  weightDecay: z.number().min(0).max(1).default(0),
  /** Gradients are scaled down to this norm. */
  clip: z.number().positive().default(1),
  train: z.enum(trainedParts).default('ALL'),
  /** With LAYERS: indices in the student. */
  layers: z.array(z.number().int().min(0)).min(1).optional(),
  lora: z
    .strictObject({
      rank: z.number().int().min(1).max(1024).default(loraDefaults.rank),
      alpha: z.number().positive().default(loraDefaults.alpha),
      targets: z.array(z.enum(loraTargets)).min(1).default(loraDefaults.targets),
      /** Whether the factors are kept beside the weights they are merged into. */
      keepAdapter: z.boolean().optional(),
    })
    .optional(),
  /** Of the divergence from the teacher. */
  temperature: z.number().min(0.1).max(10).default(1),
  /** How many of the teacher's most likely tokens are named; all others are one. */
  teacherTokens: z.number().int().min(1).max(4096).default(256),
  /** Of the loss the texts' own share, and the divergence's what that leaves over. Measured in docs/decisions/0070. */
  crossEntropy: share.default(0.5),
  /** Added: states of the residual stream, and attention probabilities. */
  hidden: z.number().min(0).max(100).default(0),
  hiddenLoss: z.enum(hiddenLossKinds).default('MSE'),
  attention: z.number().min(0).max(100).default(0),
  /** Which layer's output of the teacher a layer's output of the student shall be like; absent: as the layers were kept, before each cut; each its own where none is cut. */
  layerMapping: z
    .array(z.strictObject({ student: z.number().int().min(0), teacher: z.number().int().min(0) }))
    .min(1)
    .optional(),
  /** What a prompt's token counts beside a completion's. */
  promptWeight: share.default(0.2),
  /** Share of the rows that the student writes itself, anew every `checkpointSteps`, for the teacher to judge; absent: none. */
  onPolicy: share.optional(),
  /** Whether capabilities take turns, so that all have equally many completion tokens. */
  balanced: z.boolean().default(true),
  seed: z.number().int().min(0).default(1),
  /** Looks at held-out loss during training, and how many without improvement end it; absent: to the end. */
  looks: z.number().int().min(1).max(1000).default(4),
  patience: z.number().int().min(1).optional(),
  /** Held-out samples per capability. */
  heldOutSamples: z.number().int().min(1).max(10_000).default(8),
  /** Whether the backward pass computes each layer's inside anew; absent: where memory would not hold it. */
  recompute: z.boolean().optional(),
  checkpointSteps: z.number().int().min(1).default(20),
  /** Whether the build fails where held-out loss does not fall; else it goes on with the weights as they were. */
  required: z.boolean().default(false),
})
export type Healing = z.output<typeof healingSchema>

/** Whether any loss needs the teacher's word. */
export const asksTeacher = ({ crossEntropy, hidden, attention }: Healing): boolean =>
  crossEntropy < 1 || hidden > 0 || attention > 0

/** What of it does not go together, in words; undefined where all does. */
export function contradictionOf({ train, layers, onPolicy, crossEntropy }: Partial<Healing>): string | undefined {
  if (train === 'LAYERS' && !layers) return 'healing.layers is missing: LAYERS trains the layers it names'
  if (onPolicy && crossEntropy === 1)
    return 'healing.onPolicy: nobody judges what the student writes where crossEntropy is 1; make it less'
  return undefined
}
