// How a model's matrices are quantised, as a mutation, a recipe and a job say it.
import { z } from 'zod'
import { hashSchema } from './manifest.js'

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
  /**
   * Largest result, of all tensors. With one of these two, groups of matrices of a layer (q, k and v; o; gate and up; down) get the codes that
   * a search over their measured sensitivity gives them, from `type` up; symmetric and blockSize then count for embeddings and head only.
   */
  maximumBytes: z.number().int().positive().optional(),
  /** Least exp(-KL divergence from the model before), on texts of the probe split. */
  minimumQuality: z.number().gt(0).lt(1).optional(),
  /** Takes the values of a model that came quantised as if they were the full-precision ones. */
  requantize: z.boolean().default(false),
})
export type Quantization = z.output<typeof quantizationSchema>

/** What a recipe asks for: the same, and which texts it is calibrated with (probe split) and compared on (validation split). */
export const recipeQuantizationSchema = quantizationSchema.extend({
  /** Payload: the probe set; filled in where the recipe does not say. */
  probeSet: hashSchema.optional(),
  /** Validation samples per capability that it is compared on. */
  samplesPerCapability: z.number().int().min(1).max(100_000).default(8),
})
export type RecipeQuantization = z.output<typeof recipeQuantizationSchema>

/** Texts that a search measures groups on: every group runs half of the model over them. */
export const sensitivityTokens = 512
/** A least quality that was missed is aimed at again, with what the sum of the groups turned out to be short of. */
export const mostAttempts = 4

export const blockSizes = [32, 64, 128] as const

/** How the weights of one matrix are rounded. */
export interface WeightScheme {
  bits: 4 | 8
  /** weight = scale * code with signed codes; otherwise weight = scale * code + minimum with codes from 0. */
  symmetric: boolean
  /** Weights that share a scale. */
  blockSize: (typeof blockSizes)[number]
}

/** Bytes of one block: float16 scale, float16 minimum where asymmetric, codes. */
export const blockBytes = ({ bits, symmetric, blockSize }: WeightScheme): number =>
  (symmetric ? 2 : 4) + (blockSize * bits) / 8

/** The fewest bytes that a search gives the layers' matrices. */
export const leastScheme = (role: string, { type, raised }: Quantization): WeightScheme => ({
  bits: type === 'INT8' || raised?.includes(role) ? 8 : 4,
  symmetric: true,
  blockSize: 128,
})

/** Tables are read row by row by a kernel that has no minima, and 8 bits need none. */
const tableScheme: WeightScheme = { bits: 8, symmetric: true, blockSize: 32 }

/** What the options ask for of a matrix in this role; undefined: it stays as it is. @param tied whether embeddings are the head too */
export function wantedScheme(role: string, tied: boolean, options: Quantization): WeightScheme | undefined {
  const isTable = role === 'embed' || role === 'lm_head'
  const own =
    role === 'lm_head' || (role === 'embed' && tied) ? options.head : isTable ? options.embeddings : options.type
  if (own === 'KEEP') return undefined
  const bits = own === 'INT8' || options.raised?.includes(role) ? 8 : 4
  if (isTable && bits === 8) return tableScheme
  return { bits, symmetric: options.symmetric, blockSize: options.blockSize }
}

/** The scheme with the largest block, up to the wanted one, that rows are whole numbers of; undefined where none is. */
export function fittingScheme(columns: number, wanted: WeightScheme): WeightScheme | undefined {
  const blockSize = blockSizes.findLast(size => size <= wanted.blockSize && columns % size === 0)
  return blockSize && { ...wanted, blockSize }
}
