// How weights are rounded, as people ask for it in a mutation and in a recipe: enums and shared descriptions.
import type { EmbeddingQuantization, Quantization } from '../../lib/quantization.js'
import { registerValues } from './common-types.js'

export const WeightTypeEnum = registerValues<Quantization['type']>('WeightType', 'Codes that weights are rounded to.', {
  INT4: '4-bit codes: with scales 4.5 bits per weight in symmetric blocks of 32, 4.25 in blocks of 64.',
  INT8: '8-bit codes: with scales 8.5 bits per weight in symmetric blocks of 32.',
})
export const TableQuantizationEnum = registerValues<EmbeddingQuantization>(
  'TableQuantization',
  'What becomes of the tables of embeddings and of the head.',
  {
    KEEP: 'Stays as it is.',
    INT8: '8-bit codes in symmetric blocks of 32.',
    INT4: '4-bit codes as the layers’ matrices.',
  },
)
export const QuantizationMethodEnum = registerValues<Quantization['method']>(
  'QuantizationMethod',
  'How codes are found.',
  {
    CALIBRATED:
      'With error feedback from activations on the probe split: what rounding one column does to the layer’s output is made up for by the next (GPTQ). Scales by least squares.',
    ROUND_TO_NEAREST: 'From the weights alone; needs no run of the model.',
  },
)

/** What the fields of a mutation, of a recipe and of its answer say alike. */
export const quantizationTexts = {
  type: 'Codes of the layers’ matrices.',
  symmetric:
    'true: signed codes around zero; false: codes over a minimum of each block (half a bit per weight more in blocks of 32).',
  blockSize:
    'Weights that share a scale: 32, 64 or 128. Where rows are no whole blocks, the next smaller size is taken.',
  method: 'How codes are found',
  embeddings: 'The table of embeddings, where the head is a table of its own',
  head: 'The head, and the embeddings where both are one table',
  calibrationTokens: 'Tokens to calibrate with, 32 to 1,000,000; default: 8192.',
  maximumBytes:
    'Largest result in bytes, all tensors. How far each group of matrices (q, k and v; o; gate and up; down of a layer) alone moves predictions is measured, and codes are chosen by it: 4 bits in blocks of 128 to 32, with a minimum, 8 bits, or as stored; `type` is the least. Default: no limit.',
  minimumQuality:
    'Least exp(-KL divergence from the model before), above 0 and below 1, on texts of the probe split, in the fewest bytes found by the same search; default: none.',
} as const
