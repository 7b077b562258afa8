import { expect, test } from 'vitest'
import { seededRandom } from '../../../../compute/inference/sampling.js'
import { encodeVector } from '../../../../compute/probing/activations.js'
import { discoverSubcapabilities, sampleKey } from '../../../../compute/probing/sample-clusters.js'
import type { SampleRecord } from '../../../../compute/probing/sample-records.js'
import type { ProbedSample } from '../../../../compute/probing/scoring.js'

const hidden = 8
const random = seededRandom(5)

/** A sample whose middle layer (the second of three) points to a corner; the other layers are noise. */
function sample(subtask: string, prompt: string, corner: number, capability = 'code') {
  const middle = Array.from({ length: hidden }, (_, i) => (i === corner ? 4 : 0) + random())
  const noise = () => Array.from({ length: hidden }, () => 10 * random())
  const vectors = Float32Array.from([...noise(), ...middle, ...noise()])
  const probe = { capability, subtask, split: 'probe' as const, prompt, completion: `of ${prompt}` }
  const probed: ProbedSample = { capability, ids: [], completionStart: 1, completionTokens: 2, probe }
  return { probed, record: { nll: 3, exact: false, centroids: encodeVector(vectors) } as SampleRecord }
}
const discover = (samples: ReturnType<typeof sample>[], seed = 0) =>
  discoverSubcapabilities(
    samples.map(s => s.probed),
    samples.map(s => s.record),
    [...new Set(samples.map(s => s.probed.capability))],
    3,
    hidden,
    seed,
  )

// Named: sql and python; the model tells loops from files in python, and puts what asks for sums together across both.
const samples = [
  ...[1, 2, 3, 4].map(i => sample('sql', `select table ${'x'.repeat(i)}`, 0)),
  ...[1, 2, 3, 4].map(i => sample('python', `write loop ${'y'.repeat(i)}`, 1)),
  ...[1, 2, 3, 4].map(i => sample('python', `open file ${'z'.repeat(i)}`, 2)),
  ...[1, 2].flatMap(i => [
    sample('sql', `total sum ${'v'.repeat(i)}`, 3),
    sample('python', `total sum ${'w'.repeat(i)}`, 3),
  ]),
]

test('clusters are proposed with words, examples and scores, within a sub-capability or across several', () => {
  const found = discover(samples)
  const byName = new Map(found.map(d => [d.words.slice().sort().join(' '), d]))
  const loops = byName.get('loop write')!
  expect(loops).toMatchObject({
    parent: 'code/python',
    score: { loss: 1.5, sampleCount: 4, capability: 'code/python' },
  })
  expect(loops.samples).toEqual(
    samples
      .slice(4, 8)
      .map(s => sampleKey(s.probed.probe))
      .sort(),
  )
  expect(loops.examples).toHaveLength(3)
  expect(loops.examples.every(e => e.startsWith('write loop'))).toBe(true)
  expect(byName.get('file open')!.parent).toBe('code/python')
  expect(byName.get('sum total')).toMatchObject({ parent: 'code', name: 'Like: sum, total' })
  expect(discover(samples)).toEqual(found)
})

test('a cluster that is a named sub-capability is not proposed, nor anything from too few samples', () => {
  const named = [...samples.slice(0, 4), ...samples.slice(4, 8)]
  expect(discover(named)).toEqual([])
  expect(discover(samples.slice(0, 5))).toEqual([])
})

test('equal vectors and single samples of a capability are no kinds', () => {
  const same = samples.slice(0, 8).map(({ probed }) => ({ probed, record: samples[0]!.record }))
  expect(discover(same)).toEqual([])
  expect(discover([sample('one', 'alone', 0, 'lonely')])).toEqual([])
})

test('long prompts are shortened in examples', () => {
  const long = samples.map((s, i) => ({
    ...s,
    probed: { ...s.probed, probe: { ...s.probed.probe, prompt: `${s.probed.probe.prompt}\n${'😀 '.repeat(300)}${i}` } },
  }))
  for (const { examples } of discover(long))
    for (const example of examples) {
      expect([...example]).toHaveLength(200)
      expect(example).toMatch(/…$/)
      expect(example).not.toContain('\n')
    }
})
