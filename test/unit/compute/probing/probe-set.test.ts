import { createHash } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import {
  assignSplits,
  canonicalProbeSet,
  countSamples,
  type ProbeSample,
  parseProbeSet,
  type RawSample,
  readProbeLines,
  selectSamples,
} from '../../../../compute/probing/probe-set.js'

const bytes = (text: string) => new TextEncoder().encode(text)
const good = '{"task":"maths","subtask":"sums","split":"probe","prompt":"1 + 1 =","completion":" 2"}\n'
const sample = (over: Partial<ProbeSample> = {}): ProbeSample => ({
  capability: 'maths',
  subtask: 'sums',
  split: 'probe',
  prompt: '1 + 1 =',
  completion: ' 2',
  ...over,
})

describe('readProbeLines', () => {
  it('reads lines however the bytes are cut', async () => {
    const text = bytes(`${good}\n${good.replace('1 + 1', 'größer')}`)
    const pieces = Array.from(text, (_, i) => text.subarray(i, i + 1))
    expect(await readProbeLines(pieces)).toEqual(await readProbeLines([text]))
    expect(await readProbeLines(pieces)).toHaveLength(2)
  })

  it.each([
    [`${good}not json\n`, 'line 2: not JSON'],
    [`${good}{"task":"maths"}\n`, 'line 2: the field "subtask" is missing'],
    [`${good}\n${good.replace('" 2"', '""')}`, 'line 3: completion'],
    [good.replace('"probe"', '"train"'), 'line 1: split'],
    [good.replace('maths', 'Maths and more'), 'line 1: task'],
    [`${good}${good.replace('1 + 1 =', 'x'.repeat(300_000))}`, 'line 2'],
    ['', 'holds no samples'],
    ['\n\n', 'holds no samples'],
    ['[]', 'line 1'],
  ])('refuses %.60j naming the line', async (text, message) => {
    const error = await readProbeLines([bytes(text)]).catch(e => e)
    expect(error.code).toBe('INVALID_PROBE_DATASET')
    expect(error.message).toContain(message)
  })

  it('refuses bytes that are not UTF-8', async () => {
    const error = await readProbeLines([bytes(good), Uint8Array.of(0x22, 0xff, 0x22)]).catch(e => e)
    expect(error.message).toContain('line 2: not valid UTF-8')
  })
})

describe('assignSplits', () => {
  const raw = (count: number, subtask = 'sums'): RawSample[] =>
    Array.from({ length: count }, (_, i) => ({
      capability: 'maths',
      subtask,
      prompt: `${subtask} ${i} + 1 =`,
      completion: ` ${i + 1}`,
    }))

  it('sends prompts whose SHA-256 begins below 0x40 to validation', () => {
    const result = assignSplits(raw(400))
    for (const s of result) {
      const first = createHash('sha256').update(s.prompt).digest()[0] ?? 0
      expect(s.split).toBe(first < 64 ? 'validation' : 'probe')
    }
    const share = result.filter(s => s.split === 'validation').length / result.length
    expect(share).toBeGreaterThan(0.18)
    expect(share).toBeLessThan(0.32)
  })

  it('gives every sub-capability with two prompts one of each split', () => {
    for (let n = 2; n < 6; n++) {
      for (let i = 0; i < 20; i++) {
        const counts = countSamples(assignSplits(raw(n, `s${i}-${n}`)))[0]
        expect(Math.min(counts?.probe ?? 0, counts?.validation ?? 0)).toBeGreaterThan(0)
      }
    }
  })

  it('never puts one prompt into both splits', () => {
    const twice = [...raw(3), ...raw(3)]
    const splitOf = new Map<string, string>()
    for (const s of assignSplits(twice)) {
      expect(splitOf.get(s.prompt) ?? s.split).toBe(s.split)
      splitOf.set(s.prompt, s.split)
    }
  })

  it('keeps splits that the lines name', () => {
    const named = [sample({ split: 'validation' }), sample({ split: 'validation', prompt: 'b' })]
    expect(assignSplits(named)).toEqual(named)
  })
})

describe('canonicalProbeSet', () => {
  it('is read back as it was written', async () => {
    const samples = [sample(), sample({ prompt: 'Ünïcode\n"quoted"', split: 'validation' })]
    expect(await parseProbeSet(canonicalProbeSet(samples))).toEqual(samples)
  })
})

describe('selectSamples', () => {
  const set = [
    ...['a', 'b', 'c', 'd'].map(p => sample({ subtask: 'sums', prompt: p })),
    ...['e'].map(p => sample({ subtask: 'products', prompt: p })),
    ...['f', 'g', 'h'].map(p => sample({ subtask: 'roots', prompt: p })),
    sample({ prompt: 'v', split: 'validation' }),
    sample({ capability: 'facts', subtask: 'towns', prompt: 'x' }),
  ]
  const prompts = (n: number | undefined, split: 'probe' | 'validation' = 'probe') =>
    selectSamples(set, { split, capabilities: ['maths'], samplesPerCapability: n })
      .map(s => s.prompt)
      .join('')

  it.each([
    [1, 'a'],
    [3, 'aef'],
    [5, 'abefg'],
    [7, 'abcefgh'],
    [50, 'abcdefgh'],
    [undefined, 'abcdefgh'],
  ])('takes %s in turn from the sub-capabilities', (n, expected) => expect(prompts(n)).toBe(expected))

  it('takes every capability where none is named', () => {
    expect(selectSamples(set, { split: 'probe' })).toHaveLength(9)
  })

  it('refuses a capability that the set does not have', () => {
    expect(() => selectSamples(set, { split: 'probe', capabilities: ['law'] })).toThrow(
      'The probe set has no capability "law"; it has maths, facts',
    )
  })

  it('refuses a split without samples', () => {
    expect(() => selectSamples(set, { split: 'validation' })).toThrow('no validation samples of facts')
  })
})
