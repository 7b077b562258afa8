// How a model's matrices are quantised, as a mutation, a recipe and a job say it.
import { z } from 'zod'

export const embeddingQuantizations = ['KEEP', 'INT8', 'INT4'] as const
export type EmbeddingQuantization = (typeof embeddingQuantizations)[number]

export const quantizationSchema = z.object({
  /** Of the matrices of all layers. */
  type: z.enum(['INT4', 'INT8']),
  /** Signed codes around 0; otherwise codes from 0 over a minimum of each block. */
  symmetric: z.boolean().default(true),
  /** Weights that share a scale; where a row is no whole number of blocks, the next smaller size is taken. */
  blockSize: z.union([z.literal(32), z.literal(64), z.literal(128)]).default(32),
  /** `CALIBRATED`: with error feedback from activations on the probe split (GPTQ); `ROUND_TO_NEAREST`: from the weights alone. */
  method: z.enum(['CALIBRATED', 'ROUND_TO_NEAREST']).default('CALIBRATED'),
  /** Of the table of embeddings where the head is a table of its own. */
  embeddings: z.enum(embeddingQuantizations).default('INT8'),
  /** Of the head, and of the embeddings where they are one table. */
  head: z.enum(embeddingQuantizations).default('INT8'),
  /** Tokens that calibration reads. */
  calibrationTokens: z.number().int().min(32).max(1_000_000).default(8192),
  /** Roles (`layers.3.down`) that get 8 bits although `type` is INT4. */
  raised: z.array(z.string()).optional(),
  /** Takes the values of a model that came quantised as if they were the full-precision ones. */
  requantize: z.boolean().default(false),
})
export type Quantization = z.output<typeof quantizationSchema>
