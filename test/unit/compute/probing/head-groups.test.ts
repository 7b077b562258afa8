import { expect, test } from 'vitest'
import { doubtfulGroups, maskedGroups } from '../../../../compute/probing/head-groups.js'
import type { CapabilityHeads } from '../../../../compute/probing/head-importance.js'

const heads = (capability: string, groups: number[][]): CapabilityHeads => ({
  capability,
  meanSampleLoss: 1,
  sampleCount: 2,
  layers: groups.map((keyValueGroups, layerIndex) => ({
    layerIndex,
    heads: keyValueGroups,
    keyValueGroups,
    entropy: keyValueGroups.map(() => 0),
  })),
})
const found = [
  heads('a', [
    [3, 1],
    [0.1, 5],
    [2, 0.4],
  ]),
  heads('b', [
    [0, 1],
    [0.3, 0],
    [2, 0.4],
  ]),
]

test('the least of all capabilities together are chosen, by layer', () => {
  // Sums: 3, 2 | 0.4, 5 | 4, 0.8
  const least = [
    { layerIndex: 1, keyValueHeadIndex: 0 },
    { layerIndex: 2, keyValueHeadIndex: 1 },
  ]
  expect(doubtfulGroups(found, 2, () => 0)).toEqual(least)
  expect(doubtfulGroups(found, 0, () => 0)).toEqual([])
  expect(doubtfulGroups([], 2, () => 0)).toEqual([])
})

test('a group that was measured before stays while it is among twice as many', () => {
  const measured = (group: { layerIndex: number }) => (group.layerIndex === 0 ? 4 : 0)
  expect(doubtfulGroups(found, 2, measured)).toEqual([
    { layerIndex: 0, keyValueHeadIndex: 0 },
    { layerIndex: 0, keyValueHeadIndex: 1 },
  ])
  expect(doubtfulGroups(found, 1, measured)).toEqual([{ layerIndex: 1, keyValueHeadIndex: 0 }])
})

test('the loss of a masked group is per token, with its interval, and per sample where that is asked for', () => {
  const sample = (capability: string, completionTokens: number) => ({
    capability,
    ids: [],
    completionStart: 1,
    completionTokens,
  })
  const samples = [sample('a', 1), sample('b', 2), sample('a', 3)]
  const records = [{ nll: 1 }, { nll: 2 }, { nll: 3 }]
  const losses = [{ '1/0': 2 }, { '1/0': 1 }, { '1/0': 9 }]
  const [group] = maskedGroups(samples, records, losses, [{ layerIndex: 1, keyValueHeadIndex: 0 }], found)
  const [a, b] = group!.capabilities
  expect(a).toMatchObject({ capability: 'a', importance: 0.1, lossIncrease: 7 / 4, sampleLossIncrease: (1 + 2) / 2 })
  expect(a!.interval).toEqual([1, 2])
  expect(b).toMatchObject({ lossIncrease: -0.5, interval: null })
})
