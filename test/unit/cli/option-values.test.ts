import { describe, expect, it } from 'vitest'
import { mixtureOption } from '../../../cli/option-values.js'

describe('a mixture on the command line', () => {
  it('names its capabilities with weights, 1 where none is given', () => {
    expect(mixtureOption('office=summarization:2,translation')).toEqual({
      name: 'office',
      weights: [
        { capability: 'summarization', weight: 2 },
        { capability: 'translation', weight: 1 },
      ],
    })
  })

  it.each(['office', '=translation', 'office=', 'office=translation:0', 'office=translation:two', 'office=:2'])(
    'is refused as %j',
    text => {
      expect(() => mixtureOption(text)).toThrow(/expected|Expected/)
    },
  )
})
