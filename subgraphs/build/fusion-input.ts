// Fusions as people ask for them in a mutation and in a recipe.
import { type Fusion, fusions } from '../../lib/fusion.js'
import { registerValues } from './common-types.js'

export const FusionEnum = registerValues<Fusion>('Fusion', 'What of a model’s graph is computed at once.', {
  NORM_WEIGHT:
    'Weights of a norm folded into the projections that read it, with ones left in the norm. Changes tensors, so only where these are plain numbers.',
  QKV: 'Queries, keys and values as one product.',
  GATE_UP: 'The two products that a gated feed-forward block begins with as one.',
  NORM_ATTENTION:
    'From norm to attention by one product, whose rows attention reads as they are: no split, no copies. Implies QKV.',
  RESIDUAL_NORM: 'The residual sum and the norm after it in one kernel; the engine always does so.',
} satisfies Record<(typeof fusions)[number], string>)
