import { describe, expect, it } from 'vitest'
import { paretoCuts } from '../../../../compute/probing/pareto-cuts.js'

describe('paretoCuts', () => {
  it('keeps what no smaller or equal cut beats, largest first', () => {
    const cut = (parameters: number, loss: number, heads = false) => ({ parameters, loss, heads })
    const cuts = [cut(60, 2.1), cut(60, 2.3), cut(55, 2.15), cut(50, 2.4), cut(40, 2.2), cut(30, 5)]
    expect(paretoCuts(cuts).map(c => [c.parameters, c.loss])).toEqual([
      [60, 2.1],
      [55, 2.15],
      [40, 2.2],
      [30, 5],
    ])
    const both = [cut(50, 2.2), cut(45, 2.1, true), cut(48, 2.15, true), cut(44, 2.4), cut(60, 2.05, true)]
    expect(paretoCuts(both).map(c => [c.parameters, c.heads])).toEqual([
      [60, true],
      [50, false],
      [45, true],
      [44, false],
    ])
  })
})
