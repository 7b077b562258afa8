// Recipes as they are printed (without colours).
import { expect, test } from 'vitest'
import { countsByLayer, cutName, decisionLines, layerReason, partsText, recipeTable } from '../../../cli/recipe-text.js'
import type { RecipeDetail, RecipeSummary } from '../../../cli/results.js'

const makeRecipe = (overrides: Partial<RecipeSummary> = {}): RecipeSummary => ({
  id: 'id',
  name: 'smollm2-135m-instruct-mathematical-reasoning-22of30',
  status: 'PROPOSED',
  objective: 'mathematical reasoning with 22 of 30 layers',
  estimatedParameterCount: 106_000_000,
  estimatedQuality: 0.582,
  estimatedQualityInterval: [0.551, 0.614],
  measuredQuality: null,
  estimatedCost: 41.3,
  measuredCost: null,
  capability: { slug: 'mathematical_reasoning' },
  mixture: null,
  layers: [0, 6, 12, 18, 24].map(from => ({ from, to: from + 4, reason: null, model: null })),
  headPruning: { unit: 'KEY_VALUE_GROUP', metric: 'GIVEN', removePerLayer: [0, 2, 0, 1] },
  feedForwardPruning: null,
  quantization: null,
  fusion: null,
  measuredAgainst: { id: 'm', name: 'parent' },
  parentModel: { id: 'm', name: 'smollm2-135m-instruct' },
  student: null,
  createdAt: '2026-11-26T00:00:00.000Z',
  ...overrides,
})
const widthOf = (text: string) => Math.max(...text.split('\n').map(line => line.length))

test.each([80, 90, 100])('the table of recipes fits into %d columns and keeps what a command needs', width => {
  const id = 'UmVjaXBlOjAxYTIxNTM3LTg0YTctNzc4My05MzU3LTUzNzEzYzQxNWZjNg'
  const text = recipeTable([makeRecipe({ id }), makeRecipe({ id, estimatedQuality: 0.4 })], { ids: false, width })
  expect(widthOf(text)).toBeLessThanOrEqual(width)
  for (const part of ['22of30', '106 M', '0.582', '0.400 poor', '~41.3', '3c415fc6']) expect(text).toContain(part)
})

test('a wide terminal has whole names, layers and the interval', () => {
  const text = recipeTable([makeRecipe()], { ids: false, width: 240 })
  expect(text).toContain('smollm2-135m-instruct-mathematical-reasoning-22of30  mathematical_reasoning')
  expect(text).toContain('0.582 (0.55–0.61)')
  expect(text).toContain('0–3, 6–9, 12–15, 18–21, 24–27 less 3 key/value heads')
})

test('heads are counted where their kind has no room', () => {
  const layers = [{ from: 0, to: 8, reason: null, model: null }]
  expect(recipeTable([makeRecipe({ layers })], { ids: false, width: 140 })).toContain('0–7 less 3 heads')
})

test('what nothing was measured of has no column, a status that is said otherwise neither', () => {
  const head = (recipes: RecipeSummary[], withoutStatus = false) =>
    recipeTable(recipes, { ids: false, width: 240, withoutStatus }).split('\n')[0]!
  expect(head([makeRecipe()])).not.toContain('measured')
  expect(head([makeRecipe(), makeRecipe({ measuredQuality: 0.6 })])).toContain('measured')
  expect(head([makeRecipe()])).toContain('status')
  expect(head([makeRecipe()], true)).not.toContain('status')
})

test('the capability stays where a name does not say it', () => {
  const text = recipeTable([makeRecipe({ name: 'mine' })], { ids: false, width: 80 })
  expect(text).toContain('mathematical_reasoning')
})

test.each([
  ['smollm2-translation-22of30', 40, 'smollm2-translation-22of30'],
  ['smollm2-translation-22of30', 26, 'smollm2-translation-22of30'],
  ['smollm2-translation-22of30', 20, '…-translation-22of30'],
])('%s in %d characters is %s', (name, length, cut) => {
  expect(cutName(name, length)).toBe(cut)
})

test('a reason does not begin with the layers that stand before it', () => {
  const layer = { from: 0, to: 3, reason: 'layers 0-2: skipping any of them costs 0.1 to 8 nats', model: null }
  expect(layerReason(layer)).toBe('skipping any of them costs 0.1 to 8 nats')
  expect(layerReason({ ...layer, from: 5, to: 6, reason: 'layer 5: skipping it gains 0.2 nats' })).toBe(
    'skipping it gains 0.2 nats',
  )
  expect(layerReason({ ...layer, reason: 'all layers stay' })).toBe('all layers stay')
})

test('only layers that lose heads are named', () => {
  expect(countsByLayer([0, 0, 1, 1, 0, 2, 1])).toBe('1 in layers 2–3, 6; 2 in layer 5')
  expect(countsByLayer([1, 1, 1])).toBe('1 in each layer')
  expect(countsByLayer([0, 4], { zeros: true })).toBe('0 in layer 0; 4 in layer 1')
  const detail = { ...makeRecipe(), layers: [{ from: 0, to: 1, reason: null, model: null }] } as RecipeDetail
  expect(partsText(detail)).toEqual([
    '  layer 0: no reason given',
    '  without key/value heads (layers of the student): 2 in layer 1; 1 in layer 3, named one by one',
  ])
})

test('every decision is a line, with the policy where one decided', () => {
  const decision = (reason: string, changes = {}) => ({
    ...{ outcome: 'APPROVED', reason, policyVersion: null, createdAt: '2026-11-26T00:00:00.000Z' },
    ...changes,
  })
  const asked = decision('Approved by a person: asked for by distillStudent')
  const byPolicy = decision('Approved by policy: all', { policyVersion: 2 })
  const at = '  2026-11-26 00:00:00  '
  expect(decisionLines([asked, byPolicy, decision('Approved by root')])).toEqual([
    `${at}Approved by a person: asked for by distillStudent`,
    `${at}Approved by policy: all (policy version 2)`,
    `${at}Approved by root`,
  ])
})
