import { expect, test } from 'vitest'
import { encodeVector } from '../../../../compute/probing/activations.js'
import { layerClusters, layerVectors, meanCentroids } from '../../../../compute/probing/layer-clusters.js'
import type { LayerAnalysis } from '../../../../compute/probing/layer-influence.js'
import type { SampleRecord } from '../../../../compute/probing/sample-records.js'

const activation = { mean: 0, standardDeviation: 1, rms: 1, maximum: 1, kurtosis: 3 }
const layers = (increases: number[]): LayerAnalysis[] =>
  increases.map((lossIncrease, layerIndex) => ({
    layerIndex,
    blockInfluence: 0,
    activationNorm: 1,
    angularDistances: [],
    activation,
    capabilities: [{ capability: 'a', activation, blockInfluence: 0, lossIncrease, score: 0 }],
  }))
/** Three directions of different lengths: two layers, one, three. */
const vectors = Float32Array.from([1, 0, 0, 5, 0.1, 0, 0, 2, 0, 0, 0, 3, 0, 0.1, 9, 0.2, 0, 4])

test('layers of one direction are one cluster, whatever their length, labelled by what their skipping costs', () => {
  const found = layerClusters(layers([2, 1.4, 0.6, 0.1, 0, 0.1]), new Map([['a', { all: vectors }]]))
  expect(found.map(c => c.layers)).toEqual([[0, 1], [2], [3, 4, 5]])
  expect(found.map(c => c.role)).toEqual(['CARRIES', 'SUPPORTS', 'IDLE'])
  expect(found[0]!.lossIncrease).toBeCloseTo(1.7, 12)
  expect(found[0]!.label).toBe(
    'layers 0 and 1 carry a: 1.70 nats per token lost without one of them, 2.4 times the mean of all layers',
  )
  expect(found[1]!.label).toBe(
    'layer 2 supports a: 0.60 nats per token lost without it, 0.86 times the mean of all layers',
  )
  expect(found[2]!.label).toContain('layers 3–5 are idle for a: 0.07')
  expect(found[0]!.silhouette).toBeGreaterThan(0.8)
  expect(found[1]!.silhouette).toBe(0)
})

test('where skipping helps nothing is carried, and a model of two layers has one cluster', () => {
  const [first, second] = layerClusters(layers([-0.1, -0.2]), new Map([['a', { all: vectors.slice(0, 6) }]]))
  expect(second).toBeUndefined()
  expect(first).toMatchObject({ layers: [0, 1], role: 'IDLE', silhouette: 0 })
  expect(first!.label).toBe('layers 0 and 1 are idle for a: -0.15 nats per token lost without one of them')
})

test('what all capabilities share says nothing: layers are one cluster where they differ from the others’ mean alike', () => {
  // All layers of both point far along the last axis; `a` leaves it one way in two layers, another way in the next two.
  const far = (x: number, y: number) => [x, y, 100]
  const a = Float32Array.from([far(1, 0), far(1, 0.1), far(0, 2), far(0.1, 2)].flat())
  const b = Float32Array.from([far(-1, 0), far(-1, 0.1), far(0, -2), far(-0.1, -2)].flat())
  const both = new Map([
    ['a', { all: a }],
    ['b', { all: b }],
  ])
  const found = layerClusters(layers([2, 2, 0.1, 0.1]), both).filter(c => c.capability === 'a')
  expect(found.map(c => c.layers)).toEqual([
    [0, 1],
    [2, 3],
  ])
  expect(found.map(c => c.stability)).toEqual([null, null])
})

/** Two capabilities that differ one way in three layers, another way in the last two. */
const mirrored = () => {
  const rows = [1, 1, 1, 0, 0].map((first, i) => [first, 1 - first + 0.05 * (i % 2), 100])
  const vectors = Float32Array.from(rows.flat())
  return new Map([
    ['a', { all: vectors }],
    ['b', { all: vectors.map((x, i) => (i % 3 === 2 ? x : -x)) }],
  ])
}
const costing = (a: number[], b: number[]): LayerAnalysis[] =>
  layers(a).map((layer, i) => ({
    ...layer,
    capabilities: [...layer.capabilities, { ...layer.capabilities[0]!, capability: 'b', lossIncrease: b[i]! }],
  }))

test('layers that cost every capability most have one label for all, and what else carries one is what sets it apart', () => {
  const found = layerClusters(costing([9, 5, 0.6, 0.1, 0.1], [8, 4, 0.1, 0.3, 0.3]), mirrored())
  const everywhere = 'layers 0 and 1 carry every capability: 4.00 to 9.00 nats per token lost without one of them'
  const of = (slug: string) => found.filter(c => c.capability === slug)
  expect(of('a').map(c => c.layers)).toEqual([[0, 1], [2], [3, 4]])
  expect([...new Set(found.filter(c => c.layers[0] === 0).map(c => c.label))]).toEqual([everywhere])
  expect(of('a')[0]).toMatchObject({ role: 'CARRIES', lossIncrease: 7 })
  expect(of('a')[1]).toMatchObject({
    role: 'CARRIES',
    label:
      'layer 2 carries a more than other capabilities: 0.60 nats per token lost without it, ' +
      '2.3 times the mean of layers that do not carry all (other capabilities: 0.43 times); fewer than 4 samples, so unchecked',
  })
  expect(of('a')[2]).toMatchObject({ role: 'SUPPORTS' })
  expect(of('a')[2]!.label).toMatch(/^layers 3 and 4 matter for a less than for other capabilities: 0.10/)
  expect(of('b')[2]!.label).toMatch(/^layers 3 and 4 carry b more than other capabilities: 0.30/)
})

test('layers that cost capabilities alike carry none more than the others, however high the losses of one are', () => {
  const found = layerClusters(costing([2, 2, 2, 0.5, 0.5], [4, 4, 4, 1, 1]), mirrored())
  expect(found.map(c => c.role)).toEqual(['SUPPORTS', 'SUPPORTS', 'SUPPORTS', 'SUPPORTS'])
  expect(found[0]!.label).toMatch(/^layers 0–2 matter for a about as much as for other capabilities/)
})

test('a capability whose layers are one group has a sentence too', () => {
  const same = Float32Array.from([1, 0, 1, 0, 1, 0, 1, 0, 1, 0])
  const one = new Map([
    ['a', { all: same }],
    ['b', { all: same.map(x => -x) }],
  ])
  const [only, ...rest] = layerClusters(costing([1, 1, 1, 1, 1], [1, 1, 1, 1, 1]), one)
  expect(rest.map(c => c.capability)).toEqual(['b'])
  expect(only!.label).toBe(
    'no group of layers stands out for a: compared with the other capabilities, all differ alike',
  )
})

const record = (rows: number[][]) => ({ centroids: encodeVector(Float32Array.from(rows.flat())) }) as SampleRecord
const one = record([
  [1, 0],
  [1, 0.1],
  [0, 1],
  [0.1, 1],
  [0, 1],
])
const other = record([
  [1, 0],
  [0, 1],
  [1, 0.1],
  [0, 1],
  [1, 0],
])
const increases = [2, 2, 0.1, 0.1, 0.1]

test('halves share the sub-capabilities, also where a file lists them by turns', () => {
  const { halves } = layerVectors([one, other, one, other], ['x', 'y', 'x', 'y'], 5, 2)
  expect(halves![0]).toEqual(halves![1])
  expect(halves![0]).toEqual(meanCentroids([one, other], 5, 2))
})

test('a capability of too few samples for halves does not make those of another agree', () => {
  const loose = layerVectors([one, other, one, other], ['x', 'x', 'x', 'x'], 5, 2)
  const far = [10, 0, 10, 0, 0, 10, 0, 10, 0, 10]
  const few = { all: Float32Array.from(far) }
  const found = layerClusters(
    layers(increases),
    new Map([
      ['a', loose],
      ['few', few],
    ]),
  )
  expect(found.find(c => c.capability === 'a')!.stability).toBeLessThan(0.5)
  expect(found.find(c => c.capability === 'few')!.stability).toBeNull()
})

test('groups that two halves of the samples do not agree on are none', () => {
  const same = ['x', 'x', 'x', 'x']
  const steady = layerVectors([one, one, one, one], same, 5, 2)
  const loose = layerVectors([one, other, one, other], same, 5, 2)
  const kept = layerClusters(layers(increases), new Map([['a', steady]]))
  expect(kept.map(c => c.layers)).toEqual([
    [0, 1],
    [2, 3, 4],
  ])
  expect(kept[0]!.stability).toBe(1)
  const [only, second] = layerClusters(layers(increases), new Map([['a', loose]]))
  expect(second).toBeUndefined()
  expect(only!.layers).toEqual([0, 1, 2, 3, 4])
  expect(only!.stability).toBeLessThan(0.5)
  expect(only!.label).toMatch(
    /^no groups of layers can be told for a: one half of its samples groups them differently than the other half \(agreement -?0\.\d\d;/,
  )
})

test('centroids are means of the samples’, and records of another shape are refused', () => {
  const record = (values: number[]) => ({ centroids: encodeVector(Float32Array.from(values)) }) as SampleRecord
  expect([...meanCentroids([record([1, 2, 4, 8]), record([3, 2, 0, -8])], 2, 2)]).toEqual([2, 2, 2, 0])
  expect(() => meanCentroids([record([1, 2])], 2, 2)).toThrow('does not hold 2 vectors of 2')
})
