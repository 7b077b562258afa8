import { expect, test } from 'vitest'
import { encodeVector } from '../../../../compute/probing/activations.js'
import { layerClusters, meanCentroids } from '../../../../compute/probing/layer-clusters.js'
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
  const found = layerClusters(layers([2, 1.4, 0.6, 0.1, 0, 0.1]), new Map([['a', vectors]]))
  expect(found.map(c => c.layers)).toEqual([[0, 1], [2], [3, 4, 5]])
  expect(found.map(c => c.role)).toEqual(['CARRIES', 'SUPPORTS', 'IDLE'])
  expect(found[0]!.lossIncrease).toBeCloseTo(1.7, 12)
  expect(found[0]!.label).toBe(
    'layers 0–1 carry a: 1.70 nats per token lost without one of them, 2.4 times the mean of all layers',
  )
  expect(found[1]!.label).toBe(
    'layer 2 supports a: 0.60 nats per token lost without it, 0.9 times the mean of all layers',
  )
  expect(found[2]!.label).toContain('layers 3–5 are idle for a: 0.07')
  expect(found[0]!.silhouette).toBeGreaterThan(0.8)
  expect(found[1]!.silhouette).toBe(0)
})

test('where skipping helps nothing is carried, and a model of two layers has one cluster', () => {
  const [first, second] = layerClusters(layers([-0.1, -0.2]), new Map([['a', vectors.slice(0, 6)]]))
  expect(second).toBeUndefined()
  expect(first).toMatchObject({ layers: [0, 1], role: 'IDLE', silhouette: 0 })
  expect(first!.label).toBe('layers 0–1 are idle for a: -0.15 nats per token lost without one of them')
})

test('centroids are means of the samples’, and records of another shape are refused', () => {
  const record = (values: number[]) => ({ centroids: encodeVector(Float32Array.from(values)) }) as SampleRecord
  expect([...meanCentroids([record([1, 2, 4, 8]), record([3, 2, 0, -8])], 2, 2)]).toEqual([2, 2, 2, 0])
  expect(() => meanCentroids([record([1, 2])], 2, 2)).toThrow('does not hold 2 vectors of 2')
})
