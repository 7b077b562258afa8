// Quantised storage forms as the API names them: the ggml block types, and plain 8-bit integers.
import { registerValues } from './common-types.js'

export const quantizationTypes = {
  NONE: 'Plain numbers: float64, float32, float16, bfloat16 or float8.',
  Q4_0: '4-bit codes, one float16 scale per block of 32 (4.5 bits per weight).',
  Q4_1: '4-bit codes, float16 scale and minimum per block of 32 (5 bits per weight).',
  Q5_0: '5-bit codes, one float16 scale per block of 32 (5.5 bits per weight).',
  Q5_1: '5-bit codes, float16 scale and minimum per block of 32 (6 bits per weight).',
  Q8_0: '8-bit codes, one float16 scale per block of 32 (8.5 bits per weight).',
  Q8_1: '8-bit codes, scale and sum per block of 32 (9 bits per weight).',
  Q2_K: '2-bit codes in super-blocks of 256 (2.6 bits per weight).',
  Q3_K: '3-bit codes in super-blocks of 256 (3.4 bits per weight).',
  Q4_K: '4-bit codes in super-blocks of 256 (4.5 bits per weight).',
  Q5_K: '5-bit codes in super-blocks of 256 (5.5 bits per weight).',
  Q6_K: '6-bit codes in super-blocks of 256 (6.6 bits per weight).',
  Q8_K: '8-bit codes in super-blocks of 256 (9.1 bits per weight).',
  IQ1_S: 'Codebook of 256 weights (1.6 bits per weight).',
  IQ1_M: 'Codebook of 256 weights (1.75 bits per weight).',
  IQ2_XXS: 'Codebook of 256 weights (2.1 bits per weight).',
  IQ2_XS: 'Codebook of 256 weights (2.3 bits per weight).',
  IQ2_S: 'Codebook of 256 weights (2.6 bits per weight).',
  IQ3_XXS: 'Codebook of 256 weights (3.1 bits per weight).',
  IQ3_S: 'Codebook of 256 weights (3.4 bits per weight).',
  IQ4_NL: '4-bit non-linear codes, one float16 scale per block of 32 (4.5 bits per weight).',
  IQ4_XS: '4-bit non-linear codes in super-blocks of 256 (4.25 bits per weight).',
  TQ1_0: 'Ternary weights in blocks of 256 (1.7 bits per weight).',
  TQ2_0: 'Ternary weights in blocks of 256 (2.1 bits per weight).',
  MXFP4: '4-bit floats, one power-of-two scale per block of 32 (4.25 bits per weight).',
  NVFP4: '4-bit floats, one float8 scale per 16 weights (4.5 bits per weight).',
  INT8: 'Plain 8-bit integers without scales.',
  OTHER: 'Another quantised form; `dtype` has its name.',
} as const
export type QuantizationType = keyof typeof quantizationTypes

export const QuantizationTypeEnum = registerValues(
  'QuantizationType',
  'How weights are quantised. The names are those of ggml; bits per weight include the scales.',
  quantizationTypes,
)

const plain = /^(F\d+|BF16|F8_\w+|I16|I32|I64|U16|U32|U64|BOOL|NONE)$/

/** What a dtype (the source's own name) means as quantisation. */
export function quantizationOf(dtype: string): QuantizationType {
  if (plain.test(dtype)) return 'NONE'
  if (dtype === 'I8' || dtype === 'U8') return 'INT8'
  return dtype in quantizationTypes ? (dtype as QuantizationType) : 'OTHER'
}
