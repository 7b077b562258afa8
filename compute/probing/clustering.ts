// Groups of like vectors: k-means from several seeded starts, the number of groups chosen by silhouette.
import { kmeans } from 'ml-kmeans'
import { mean, silhouette } from 'simple-statistics'

export interface Cluster {
  /** Indices of its points, ascending. */
  members: number[]
  /** Mean silhouette of its points, -1 to 1; 0 for a single point. */
  silhouette: number
  /** Index of the points, nearest to the mean first. */
  byDistance: number[]
}

export interface Clustering {
  /** Mean over all points (Rousseeuw 1987, doi 10.1016/0377-0427(87)90125-7). */
  silhouette: number
  clusters: Cluster[]
}

/** k-means finds local optima: the tightest of this many starts counts. */
const starts = 5

const squaredDistance = (a: readonly number[], b: readonly number[]) =>
  a.reduce((sum, x, i) => sum + (x - b[i]!) ** 2, 0)

/**
 * The clustering of 2 to `most` clusters with the greatest mean silhouette, of equals the one with fewest; undefined where fewer than three
 * points differ, which have no shape. Equal points and seed give equal clusters, in the order of their first points.
 */
export function cluster(points: readonly (readonly number[])[], most: number, seed: number): Clustering | undefined {
  const different = new Set(points.map(String)).size
  if (different < 3) return undefined
  let best: Clustering | undefined
  for (let k = 2; k <= Math.min(most, different - 1); k++) {
    const found = tightest(points, k, seed)
    if (!best || found.silhouette > best.silhouette + 1e-9) best = found
  }
  return best
}

function tightest(points: readonly (readonly number[])[], k: number, seed: number): Clustering {
  const data = points as number[][]
  const runs = Array.from({ length: starts }, (_, start) =>
    kmeans(data, k, { initialization: 'kmeans++', seed: 1000 * seed + start }),
  ).map(({ clusters, centroids }) => ({
    clusters,
    centroids,
    spread: clusters.reduce((sum, own, i) => sum + squaredDistance(points[i]!, centroids[own]!), 0),
  }))
  const { clusters, centroids } = runs.reduce((a, b) => (b.spread < a.spread - 1e-12 ? b : a))
  // Labels without a gap, as `silhouette` needs them: a cluster may have ended up empty.
  const labels = [...new Set(clusters)]
  const values = silhouette(
    data,
    clusters.map(own => labels.indexOf(own)),
    // Equal points in two clusters are at no distance from either: nothing speaks for one of them.
  ).map(value => (Number.isNaN(value) ? 0 : value))
  return {
    silhouette: mean(values),
    clusters: labels.map(label => {
      const members = clusters.flatMap((own, i) => (own === label ? [i] : []))
      const distances = new Map(members.map(i => [i, squaredDistance(points[i]!, centroids[label]!)]))
      return {
        members,
        silhouette: mean(members.map(i => values[i]!)),
        byDistance: [...members].sort((a, b) => distances.get(a)! - distances.get(b)! || a - b),
      }
    }),
  }
}

/** Index of each point's cluster. */
export function labelsOf({ clusters }: Pick<Clustering, 'clusters'>): number[] {
  const labels: number[] = []
  clusters.forEach(({ members }, label) => {
    for (const i of members) labels[i] = label
  })
  return labels
}

const pairs = (count: number) => (count * (count - 1)) / 2

/** How far two labellings of the same points agree: 1 fully, 0 as chance would (Hubert and Arabie 1985, eq. 5). */
export function adjustedRand(a: readonly number[], b: readonly number[]): number {
  const together = (keys: readonly string[]) => {
    const counts = new Map<string, number>()
    for (const key of keys) counts.set(key, (counts.get(key) ?? 0) + 1)
    return [...counts.values()].reduce((sum, count) => sum + pairs(count), 0)
  }
  const [inA, inB] = [together(a.map(String)), together(b.map(String))]
  const expected = (inA * inB) / pairs(a.length)
  const most = (inA + inB) / 2
  return most === expected ? 1 : (together(a.map((own, i) => `${own},${b[i]}`)) - expected) / (most - expected)
}

/** The same direction with length 1; zeros stay zeros. */
export function unit(vector: ArrayLike<number>): number[] {
  const values = Array.from(vector)
  const norm = Math.sqrt(values.reduce((sum, x) => sum + x * x, 0))
  return norm === 0 ? values : values.map(x => x / norm)
}
