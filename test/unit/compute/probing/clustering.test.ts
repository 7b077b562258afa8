import { expect, test } from 'vitest'
import { cluster, unit } from '../../../../compute/probing/clustering.js'

const blob = (x: number, y: number) => [
  [x, y],
  [x + 0.1, y],
  [x, y + 0.1],
]

test('the number of clusters is that of the blobs, their silhouette by the definition', () => {
  const points = [...blob(0, 0), ...blob(5, 0), ...blob(0, 5)]
  const found = cluster(points, 6, 0)!
  expect(found.clusters.map(c => c.members)).toEqual([
    [0, 1, 2],
    [3, 4, 5],
    [6, 7, 8],
  ])
  const distance = (a: number, b: number) =>
    Math.hypot(points[a]![0]! - points[b]![0]!, points[a]![1]! - points[b]![1]!)
  const to = (i: number, others: number[]) => others.reduce((sum, j) => sum + distance(i, j), 0) / others.length
  const own = [0, 1, 2].map(i => {
    const a = to(
      i,
      [0, 1, 2].filter(j => j !== i),
    )
    const b = Math.min(to(i, [3, 4, 5]), to(i, [6, 7, 8]))
    return (b - a) / Math.max(a, b)
  })
  expect(found.clusters[0]!.silhouette).toBeCloseTo((own[0]! + own[1]! + own[2]!) / 3, 10)
  // The mean of a blob lies nearest to its corner.
  expect(found.clusters.map(c => c.byDistance[0])).toEqual([0, 3, 6])
})

test('equal points and seed give equal clusters', () => {
  const points = Array.from({ length: 40 }, (_, i) => [Math.sin(i * 12.9), Math.cos(i * 78.2), Math.sin(i * 3.7)])
  expect(cluster(points, 6, 3)).toEqual(cluster(points, 6, 3))
})

test('no more clusters than asked for, and none where fewer than three points differ', () => {
  const points = [...blob(0, 0), ...blob(5, 0), ...blob(0, 5), ...blob(5, 5)]
  expect(cluster(points, 2, 0)!.clusters).toHaveLength(2)
  expect(cluster([], 4, 0)).toBeUndefined()
  expect(cluster([[1], [1], [2], [2]], 4, 0)).toBeUndefined()
})

test('points that are equal do no harm', () => {
  const found = cluster([[0], [0], [0], [1], [2]], 4, 0)!
  expect(Number.isFinite(found.silhouette)).toBe(true)
  expect(found.clusters.flatMap(c => c.members).sort()).toEqual([0, 1, 2, 3, 4])
})

test('directions have length 1, zeros stay', () => {
  expect(unit([3, 4])).toEqual([0.6, 0.8])
  expect(unit(new Float32Array(2))).toEqual([0, 0])
})
