// The model card: what it says stands in the facts, and what was not measured is said to be so.
import { expect, test } from 'vitest'
import { parse } from 'yaml'
import { modelCard } from '../../../../compute/handlers/model-card.js'
import type { ModelFacts } from '../../../../lib/model-facts.js'
import { makeManifest } from '../../../testkit/subgraph-platform.js'

const ancestor = (name: string, layerCount: number, source: string | null) => ({
  ...{ name, layerCount, source, manifest: 'a'.repeat(64), parameterCount: 1_234_567 },
  ...{ license: null, objective: source ? null : 'a shorter model', origin: `how ${name} came` },
})
const facts: ModelFacts = {
  version: '2',
  lineage: [ancestor('student', 3, null), ancestor('teacher', 8, 'hf:owner/name@main')],
  recipe: 'merge_method: passthrough\nslices: []\n',
  quality: 0.8125,
  scores: [
    {
      ...{ capability: 'translation', probeDataset: 'built-in (version 1)', split: 'validation', loss: 1.5 },
      ...{ perplexity: Math.exp(1.5), accuracy: 0.25, sampleCount: 12, interval: [1.25, 1.75] as [number, number] },
      measuredAt: '2026-11-25',
    },
  ],
  history: ['2026-11-25 Built from recipe "cut": 3 of the 8 layers'],
  built: [{ step: 'heal', figures: { heldOutBefore: 2.5, heldOutAfter: 2.25, improved: true } }],
}
const manifest = makeManifest({ layers: 3, license: 'apache-2.0' })
const card = (given: ModelFacts) =>
  modelCard({
    ...{ name: 'student', manifest, manifestHash: 'b'.repeat(64), facts: given, library: 'transformers' as const },
    tensors: manifest.tensors,
  })
const frontMatter = (text: string) => parse(/^---\n([\s\S]*?)\n---\n/.exec(text)![1]!)

test('front matter names licence, base model, library, tags and results as the hub reads them', () => {
  const matter = frontMatter(card(facts))
  expect(matter).toMatchObject({
    ...{ license: 'apache-2.0', base_model: 'owner/name', library_name: 'transformers' },
    tags: ['hartonomous', 'llama', 'translation'],
    hartonomous_manifest: 'b'.repeat(64),
  })
  expect(matter['model-index'][0].results[0].metrics).toEqual([
    { type: 'perplexity', value: Math.exp(1.5) },
    { type: 'loss', value: 1.5 },
    { type: 'accuracy', value: 0.25 },
  ])
})

test('lineage, recipe, scores with intervals, how it was built and limits are in it', () => {
  const text = card(facts)
  expect(text).toContain('| translation | 4.4817 | 1.5 | 1.25 – 1.75 | 0.25 | 12 | validation |')
  expect(text).toContain('1 is the parent.')
  expect(text).toContain('0.8125')
  expect(text).toContain('```yaml\nmerge_method: passthrough')
  expect(text).toContain('| heal | heldOutAfter | 2.25 |')
  expect(text).toContain('3 of the 8 layers of teacher')
  expect(text).toContain('teacher (from hf:owner/name@main)')
})

test('all models that its layers are of are named, with their licences', () => {
  const layersFrom = [
    { ...ancestor('second', 8, 'hf:owner/second@main'), license: 'mit' },
    { ...ancestor('third', 8, null), objective: null },
  ]
  const text = card({ ...facts, layersFrom })
  expect(text).toContain('Some of its layers are those of second and third.')
  expect(text).toMatch(
    /Some of its layers are of:\n\n- second: .*8 layers, licence mit, ingested from `hf:owner\/second@main`/,
  )
  expect(text).toContain('\n- third: 1.23 M parameters')
  expect(card(facts)).not.toContain('Some of its layers')
})

test('a model with no measurements says so', () => {
  const text = card({ ...facts, scores: [], quality: null, built: [], recipe: null })
  expect(text).toContain('No scores: nothing was measured on this model.')
  expect(text).not.toContain('| capability |')
  expect(text).not.toContain('## Recipe')
  expect(frontMatter(text)['model-index']).toBeUndefined()
})
