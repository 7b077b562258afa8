// Texts for a pico Llama to be healed on: two capabilities, a quarter of the lines held out.
import type { ProbeSample } from '../../compute/probing/probe-set.js'

const animals = ['cat', 'dog', 'hen', 'cow', 'fox', 'owl', 'pig', 'bee', 'ant', 'ram']
const places = ['mat', 'hill', 'wall', 'roof', 'log', 'road']
export const healingSamples = (): ProbeSample[] =>
  animals.flatMap((animal, a) =>
    places.map((place, p) => ({
      capability: p % 2 ? 'sitting' : 'running',
      subtask: 'plain',
      split: (a + p) % 4 === 0 ? ('validation' as const) : ('probe' as const),
      prompt: `where is the ${animal} number ${p}?`,
      completion: ` the ${animal} ${p % 2 ? 'sits' : 'runs'} on the ${place}.`,
    })),
  )
