// The pure parts of recipes: states, ranges, counts, YAML, policy.

import { existsSync, readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { type RecipeStatus, recipeStatuses } from '../../../../db/entities/index.js'
import { buildStagesSchema } from '../../../../lib/build-stages.js'
import { projectFile } from '../../../../lib/project.js'
import { printRecipeYaml } from '../../../../subgraphs/build/print-recipe.js'
import { applyPolicy } from '../../../../subgraphs/students/approval-policy.js'
import { checkLayers, countLayers, keptLayers, layersKey } from '../../../../subgraphs/students/recipe-layers.js'
import { type CountedModel, studentSize } from '../../../../subgraphs/students/recipe-size.js'
import { nextStatus, type RecipeAction, recipeTransitions } from '../../../../subgraphs/students/recipe-status.js'
import { checkYamlDtype, parseRecipeYaml } from '../../../../subgraphs/students/recipe-yaml.js'
import { sharedFile } from '../../../testkit/shared-files.js'

describe('states of a recipe', () => {
  const expected: Record<RecipeAction, Partial<Record<RecipeStatus, RecipeStatus>>> = {
    approve: { PROPOSED: 'APPROVED', FAILED: 'APPROVED' },
    reject: { PROPOSED: 'REJECTED', APPROVED: 'REJECTED', FAILED: 'REJECTED' },
    build: { APPROVED: 'BUILDING' },
    start: { BUILDING: 'BUILDING', FAILED: 'BUILDING', APPROVED: 'BUILDING' },
    built: { BUILDING: 'BUILT' },
    failed: { BUILDING: 'FAILED' },
    cancelled: { BUILDING: 'APPROVED' },
  }
  const cases = (Object.keys(recipeTransitions) as RecipeAction[]).flatMap(action =>
    recipeStatuses.map(status => [action, status, expected[action][status] ?? 'CONFLICT'] as const),
  )
  test.each(cases)('%s on %s gives %s', (action, status, outcome) => {
    const recipe = { name: 'cut', status }
    if (outcome !== 'CONFLICT') expect(nextStatus(recipe, action)).toBe(outcome)
    else expect(() => nextStatus(recipe, action)).toThrow(`Recipe "cut" is ${status} and cannot`)
  })

  test('the sentence says what would help', () => {
    expect(() => nextStatus({ name: 'cut', status: 'PROPOSED' }, 'build')).toThrow(
      'Recipe "cut" is PROPOSED and cannot be built: only APPROVED allows it (approve it first)',
    )
  })
})

describe('layer ranges', () => {
  const parent = { name: 'p', layerCount: 30 }

  test.each([
    [[], 'keeps at least one range'],
    [[{ from: 0, to: 31 }], '[0, 31): model "p" has 30 layers, 0 to 29'],
    [[{ from: -1, to: 3 }], '[-1, 3): begins below 0'],
    [[{ from: 4, to: 4 }], '[4, 4): is empty'],
    [[{ from: 5, to: 4 }], '[5, 4): is empty'],
    [[{ from: 0.5, to: 4 }], 'whole numbers'],
    [[{ from: 0, to: 2 ** 31 - 1 }], 'has 30 layers'],
    [new Array(67).fill({ from: 0, to: 30 }), '2010 layers in all, at most 2000'],
  ])('%j is refused', (layers, message) => {
    expect(() => checkLayers(layers, parent)).toThrow(message)
  })

  test('a parent without known layers is refused as such', () => {
    const check = () => checkLayers([{ from: 0, to: 1 }], { name: 'rnn', layerCount: 0 })
    expect(check).toThrow(/"rnn" has 0 layers .*no config\.json/)
  })

  test('any order of whole ranges is fine', () => {
    const layers = [
      { from: 29, to: 30 },
      { from: 0, to: 21 },
    ]
    checkLayers(layers, parent)
    expect(countLayers(layers)).toBe(22)
    expect(keptLayers(layers).slice(0, 3)).toEqual([29, 0, 1])
  })

  test('equal cuts have equal keys, however they are written', () => {
    expect(
      layersKey([
        { from: 0, to: 3 },
        { from: 3, to: 5 },
        { from: 7, to: 8 },
      ]),
    ).toBe('0-4,7')
    expect(
      layersKey([
        { from: 0, to: 5 },
        { from: 7, to: 8 },
      ]),
    ).toBe('0-4,7')
    expect(
      layersKey([
        { from: 7, to: 8 },
        { from: 0, to: 5 },
      ]),
    ).toBe('7,0-4')
  })

  test('a student of 22 of the 30 layers of SmolLM2-135M has 106,194,240 parameters', () => {
    // 3 × 576 × 1536 (feed-forward) + 2 × 576² (q, o) + 2 × 576 × 192 (k, v) + 2 × 576 (norms) = 3,540,096 per layer
    const shapes = [[1536, 576], [1536, 576], [576, 1536], [576, 576], [576, 576], [192, 576], [192, 576], [576], [576]]
    const tensors = Array.from({ length: 30 }, (_, layerIndex) => shapes.map(shape => ({ layerIndex, shape }))).flat()
    const outside = [
      { layerIndex: null, shape: [49152, 576] },
      { layerIndex: null, shape: [576] },
    ]
    const roles = ['gate', 'up', 'down', 'q', 'o', 'k', 'v', 'attn_norm', 'mlp_norm']
    const smollm2: CountedModel = {
      name: 'SmolLM2',
      parameterCount: 134_515_008,
      dimensions: { layerCount: 30, attentionHeadCount: 9, keyValueHeadCount: 3, intermediateSize: 1536 },
      tensors: [
        ...tensors.map((t, i) => ({ ...t, role: `layers.${t.layerIndex}.${roles[i % 9]}` })),
        ...outside.map((t, i) => ({ ...t, role: ['embed', 'final_norm'][i]! })),
      ].map(t => ({ ...t, dtype: 'F16', sizeBytes: 2 * t.shape.reduce((product, size) => product * size, 1) })),
    }
    const cut = [
      { from: 0, to: 21 },
      { from: 29, to: 30 },
    ]
    expect(studentSize(smollm2, cut, null).parameters).toBe(106_194_240)
    expect(studentSize(smollm2, [...cut, { from: 29, to: 30 }], null).parameters).toBe(106_194_240 + 3_540_096)
    // A key/value group: 192 rows of q, 64 of k and of v, 192 columns of o.
    const stages = (given: Record<string, unknown>) => buildStagesSchema.parse(given)
    const group = 576 * (192 + 64 + 64 + 192)
    const heads = (pruning: Record<string, unknown>) =>
      studentSize(smollm2, cut, stages({ headPruning: { metric: 'GRADIENT', ...pruning } })).parameters
    expect(heads({ remove: 1 })).toBe(106_194_240 - 22 * group)
    expect(heads({ remove: [2, ...new Array(21).fill(0)] })).toBe(106_194_240 - 2 * group)
    expect(heads({ remove: 1, unit: 'QUERY_HEAD' })).toBe(106_194_240 - 22 * 3 * 576 * 128)
    expect(studentSize(smollm2, cut, stages({ feedForwardPruning: { keep: 1024 } })).parameters).toBe(
      106_194_240 - 22 * 3 * 576 * 512,
    )
    expect(() => heads({ remove: 3 })).toThrow(
      'layer 0: 3 of 3 key/value heads would be removed; at least one must stay',
    )
    expect(() => heads({ remove: [1, 1] })).toThrow('headPruning names 2 layers, the student has 22')

    const bytes = (given: Record<string, unknown>) => studentSize(smollm2, cut, stages(given)).bytes
    expect(bytes({})).toBe(2 * 106_194_240)
    const [matrices, norms, table] = [22 * 3_538_944, 22 * 2 * 576 + 576, 49152 * 576]
    // What is trained becomes float32, and what is fitted from the first cut on.
    const healed = (healing: Record<string, unknown>) => bytes({ healing: { data: 'a'.repeat(64), ...healing } })
    expect(healed({})).toBe(4 * 106_194_240)
    expect(healed({ train: 'NORMS' })).toBe(2 * 106_194_240 + 2 * norms)
    expect(healed({ train: 'LORA' })).toBe(2 * 106_194_240 + 2 * matrices)
    expect(healed({ train: 'LORA', lora: { targets: ['q', 'v'] } })).toBe(2 * 106_194_240 + 2 * 22 * 576 * (576 + 192))
    expect(healed({ train: 'LAYERS', layers: [0, 21] })).toBe(2 * 106_194_240 + 2 * 2 * 3_540_096)
    expect(bytes({ correctCuts: true })).toBe(2 * 106_194_240 + 2 * (2 * 576 * 1536 + 576 * 576))
    // 18 bytes of 32 weights at 4 bits, 34 at 8; norms stay float16.
    const int4 = { quantization: { type: 'INT4' } }
    expect(bytes(int4)).toBe((matrices * 18) / 32 + (table * 34) / 32 + 2 * norms)
    expect(bytes({ quantization: { type: 'INT4', head: 'KEEP' } })).toBe((matrices * 18) / 32 + 2 * (table + norms))
    expect(bytes({ ...int4, headPruning: { metric: 'GRADIENT', remove: 1 } })).toBe(
      ((matrices - 22 * group) * 18) / 32 + (table * 34) / 32 + 2 * norms,
    )
    expect(bytes({ quantization: { type: 'INT4', blockSize: 64, raised: ['layers.0.q'] } })).toBe(
      ((matrices - 576 * 576) * 34) / 64 + (576 * 576 * 66) / 64 + (table * 34) / 32 + 2 * norms,
    )
  })
})

describe('YAML', () => {
  test('what is printed is read back', () => {
    const layers = [
      { from: 0, to: 21, reason: 'syntax:\nand "meaning"' },
      { from: 29, to: 30 },
    ]
    for (const model of ['SmolLM2', 'hf:owner/name', '*odd: name#', '123', 'true']) {
      const yaml = printRecipeYaml({ model, name: 'cut\n- evil: true', objective: 'an # objective', layers })
      expect(parseRecipeYaml(yaml)).toEqual({
        model,
        layers: layers.map(({ from, to }) => ({ from, to, model })),
        name: null,
        dtype: null,
        stages: null,
      })
    }
  })

  test('what is pruned is a section of its own, layers of other models are slices of theirs', () => {
    const stages = buildStagesSchema.parse({
      headPruning: { metric: 'TASK_LOSS', remove: [1, 0, 1] },
      feedForwardPruning: { keep: 1024, correct: true },
      calibration: { probeSet: 'a'.repeat(64) },
    })
    const layers = [
      { from: 0, to: 2 },
      { from: 1, to: 2, modelId: 'other' },
    ]
    const others = new Map([['other', 'its name']])
    const yaml = printRecipeYaml({ model: 'm', name: 'n', objective: 'o', layers, stages, others })
    const { calibration: _, ...asked } = stages
    expect(parseRecipeYaml(yaml)).toMatchObject({
      model: 'm',
      layers: [
        { from: 0, to: 2, model: 'm' },
        { from: 1, to: 2, model: 'its name' },
      ],
      stages: asked,
    })
  })

  describe('whose first slice is of another model', () => {
    const layers = [
      { from: 0, to: 1, modelId: 'other' },
      { from: 1, to: 4 },
    ]
    const given = { model: 'the parent', name: 'n', objective: 'o', layers, others: new Map([['other', 'its name']]) }

    test('says which one is the parent, and is read back so', () => {
      const yaml = printRecipeYaml(given)
      expect(yaml).toContain('hartonomous:\n  parent: the parent\n')
      expect(parseRecipeYaml(yaml)).toEqual({
        model: 'the parent',
        layers: [
          { from: 0, to: 1, model: 'its name' },
          { from: 1, to: 4, model: 'the parent' },
        ],
        name: null,
        dtype: null,
        stages: null,
      })
    })

    test('says it beside its stages, which are what they were', () => {
      const stages = buildStagesSchema.parse({ headPruning: { metric: 'RANDOM', remove: 1 } })
      expect(parseRecipeYaml(printRecipeYaml({ ...given, stages }))).toMatchObject({ model: 'the parent', stages })
      expect(parseRecipeYaml(printRecipeYaml({ ...given, stages })).stages).not.toHaveProperty('parent')
    })
  })

  test('a parent that is said outweighs the first slice, one that is said and empty is refused', () => {
    const yaml = (parent: string) => passthrough(slice('a', '[0, 4]'), `hartonomous: {parent: ${parent}}\n`)
    expect(parseRecipeYaml(yaml('b'))).toMatchObject({ model: 'b', layers: [{ model: 'a' }], stages: null })
    expect(() => parseRecipeYaml(yaml('""'))).toThrow('yaml.hartonomous.parent')
    expect(() => parseRecipeYaml(yaml('[a]'))).toThrow('yaml.hartonomous.parent')
  })

  test('a configuration may say what its student is called', () => {
    expect(parseRecipeYaml(`name: tiny\n${passthrough(slice('a', '[0, 4]'))}`)).toMatchObject({ name: 'tiny' })
  })

  test('the text of a recipe', () => {
    const layers = [
      { from: 0, to: 21, reason: 'shared' },
      { from: 29, to: 30 },
    ]
    expect(printRecipeYaml({ model: 'SmolLM2', name: 'cut', objective: 'Code', layers })).toMatchInlineSnapshot(`
      "# cut
      # Code
      merge_method: passthrough
      slices:
        - sources:
            - model: SmolLM2
              layer_range: [0, 21] # shared
        - sources:
            - model: SmolLM2
              layer_range: [29, 30]
      "
    `)
  })

  const passthrough = (slices: string, rest = '') => `merge_method: passthrough\n${rest}slices:\n${slices}`
  const slice = (model: string, range: string) =>
    `  - sources:\n      - model: ${model}\n        layer_range: ${range}\n`
  test.each([
    ['not YAML', 'slices: [', 'yaml: '],
    ['a scalar', 'hello', 'yaml: '],
    ['another method', `merge_method: ties\nslices:\n${slice('a', '[0, 4]')}`, 'yaml.merge_method'],
    ['no slices', 'merge_method: passthrough\nslices: []', 'yaml.slices'],
    [
      'two sources',
      passthrough('  - sources:\n      - {model: a, layer_range: [0, 1]}\n      - {model: b, layer_range: [0, 1]}\n'),
      'yaml.slices[0].sources',
    ],
    [
      'an unknown stage',
      passthrough(slice('a', '[0, 4]'), 'hartonomous: {magic: 1}\n'),
      'yaml.hartonomous: magic is not supported',
    ],
    [
      'parameters',
      passthrough(slice('a', '[0, 4]'), 'parameters:\n  scale: 0.5\n'),
      'yaml: parameters is not supported',
    ],
    ['a range of three', passthrough(slice('a', '[0, 4, 5]')), 'yaml.slices[0].sources[0].layer_range'],
    ['a range of words', passthrough(slice('a', '[zero, one]')), 'yaml.slices[0].sources[0].layer_range[0]'],
    ['fractions', passthrough(slice('a', '[0, 1.5]')), 'yaml.slices[0].sources[0].layer_range[1]'],
    [
      'multiplying anchors',
      `a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: [*c, *c, *c, *c]\n`,
      'yaml: Excessive alias count',
    ],
    ['a text without end', 'a'.repeat(300_000), 'yaml: 300000 characters'],
  ])('%s is refused', (_, text, message) => {
    expect(() => parseRecipeYaml(text)).toThrow(message)
  })

  test('a dtype other than the parent’s is refused, the parent’s own is fine', () => {
    checkYamlDtype('bfloat16', { name: 'p', dtype: 'BF16' })
    expect(() => checkYamlDtype('float16', { name: 'p', dtype: 'Q4_1' })).toThrow('model "p" is stored as Q4_1')
  })

  const example = sharedFile('reference/mergekit/passthrough-reordered.yaml')
  test.skipIf(!existsSync(example))('a configuration that mergekit ran is read as it is', () => {
    expect(parseRecipeYaml(readFileSync(example, 'utf8'))).toEqual({
      model: 'babyllama-tok105',
      layers: [0, 3, 1, 1, 4].map(from => ({ from, to: from + 1, model: 'babyllama-tok105' })),
      name: null,
      dtype: 'float32',
      stages: null,
    })
  })
})

describe('approval policy', () => {
  const recipe = {
    estimatedQuality: 0.93125,
    estimatedParameterCount: 98_000_000,
    capabilities: ['translation'],
    estimatedCostSeconds: 12.3456,
  }
  const none = { minimumQuality: null, maximumParameters: null, capabilities: null, maximumCostSeconds: null }
  const policy = { ...none, enabled: true, minimumQuality: 0.9, maximumParameters: 100_000_000 }
  test.each([
    [
      'meets both limits',
      policy,
      recipe,
      true,
      'Approved by policy: quality 0.9313 ≥ 0.9, 98,000,000 parameters ≤ 100,000,000',
    ],
    [
      'is too bad',
      policy,
      { ...recipe, estimatedQuality: 0.8 },
      false,
      'Left to a person by policy: quality 0.8 < 0.9, 98,000,000 parameters ≤ 100,000,000',
    ],
    [
      'is too big',
      policy,
      { ...recipe, estimatedParameterCount: 100_000_001 },
      false,
      'Left to a person by policy: quality 0.9313 ≥ 0.9, 100,000,001 parameters > 100,000,000',
    ],
    [
      'was not measured',
      policy,
      { ...recipe, estimatedQuality: null },
      false,
      'Left to a person by policy: quality not measured, at least 0.9 wanted, 98,000,000 parameters ≤ 100,000,000',
    ],
    ['meets no limits', { ...none, enabled: true }, recipe, true, 'Approved by policy: no limits set'],
    [
      'is made for what is wanted, at a cost that is',
      { ...none, enabled: true, capabilities: ['translation', 'conversation'], maximumCostSeconds: 12.5 },
      recipe,
      true,
      'Approved by policy: made for translation, cost 12.3 s ≤ 12.5 s',
    ],
    [
      'is made for more than is wanted',
      { ...none, enabled: true, capabilities: ['translation'] },
      { ...recipe, capabilities: ['translation', 'code_generation'] },
      false,
      'Left to a person by policy: made for code_generation, only translation wanted',
    ],
    [
      'costs too much',
      { ...none, enabled: true, maximumCostSeconds: 10 },
      recipe,
      false,
      'Left to a person by policy: cost 12.3 s > 10 s',
    ],
    [
      'costs what nobody knows',
      { ...none, enabled: true, maximumCostSeconds: 10 },
      { ...recipe, estimatedCostSeconds: null },
      false,
      'Left to a person by policy: cost not known, at most 10 s wanted',
    ],
  ])('a proposal that %s', (_, rules, proposal, approved, reason) => {
    const decision = applyPolicy(rules, proposal)!
    expect(decision).toMatchObject({ approved, reason })
    expect(decision.checks.every(check => check.met)).toBe(approved)
    for (const { text } of decision.checks) expect(reason).toContain(text)
  })

  test('decides nothing where it is off or absent', () => {
    expect(applyPolicy({ ...policy, enabled: false }, recipe)).toBeNull()
    expect(applyPolicy(null, recipe)).toBeNull()
  })
})

test('the example of docs/recipes.md is a recipe with every stage', () => {
  const page = readFileSync(projectFile('docs', 'recipes.md'), 'utf8')
  const { layers, name, stages } = parseRecipeYaml(/```yaml\n([\s\S]*?)```/.exec(page)![1]!)
  expect([name, layers.length]).toEqual(['smollm2-cut', 2])
  expect(Object.keys(stages!).sort()).toEqual(Object.keys(buildStagesSchema.omit({ calibration: true }).shape).sort())
})
