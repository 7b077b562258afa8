// The two halves of a probe set, as the API names them.
import { registerValues } from './common-types.js'

export const ProbeSplit = registerValues('ProbeSplit', 'The two halves of a probe set.', {
  PROBE: 'Pairs that layers are measured on and students are searched with.',
  VALIDATION: 'Pairs kept apart, on which the result is judged.',
})
export type ProbeSplit = keyof typeof ProbeSplit
