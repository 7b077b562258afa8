// What is drawn from given data: well-formed XML without script, its labels in it, hostile names as text.
import { XMLParser, XMLValidator } from 'fast-xml-parser'
import { expect, test } from 'vitest'
import { headsPicture } from '../../../../gateway/pictures/heads-picture.js'
import { colourRange, layersPicture, nats } from '../../../../gateway/pictures/layers-picture.js'
import { heaviest, mapPicture, rootTicks } from '../../../../gateway/pictures/map-picture.js'
import type {
  PictureAnalysis,
  PictureHeads,
  PictureRecipes,
  PlottedRecipe,
} from '../../../../gateway/pictures/picture-data.js'
import { plainText, renderSvg } from '../../../../gateway/pictures/render-svg.js'
import { paretoFront, studentsPicture } from '../../../../gateway/pictures/students-picture.js'

const hostile = '</text><script>alert("1")</script>&\u0000\ud800\n]]>\'{b|x}'

const analysis = (changes: Partial<PictureAnalysis> = {}): PictureAnalysis => ({
  modelName: 'pico',
  parameterCount: 10_000,
  probeSet: 'demo version 1',
  capabilities: ['code_generation', 'translation'],
  samples: [6, 5],
  layers: [
    { layerIndex: 0, lossIncrease: [4.25, 1] },
    { layerIndex: 1, lossIncrease: [-0.1, 0.5] },
    { layerIndex: 2, lossIncrease: [-0.1, null] },
  ],
  ...changes,
})
const recipe = (changes: Partial<PlottedRecipe> = {}): PlottedRecipe => ({
  name: 'cut',
  capability: 'translation',
  layerCount: 22,
  fitted: false,
  pruned: false,
  parameterCount: 1_000_000,
  quality: 0.8,
  interval: null,
  measured: false,
  validationSamples: null,
  ...changes,
})
const recipes = (list: PlottedRecipe[], modelName = 'pico'): PictureRecipes => ({
  modelName,
  parameterCount: 2_000_000,
  layerCount: 30,
  capabilities: ['code_generation', 'translation'],
  recipes: list,
  unmeasured: 1,
})

/** Everything an SVG holds, checked to be XML. */
async function drawn(picture: Parameters<typeof renderSvg>[0]) {
  const svg = await renderSvg(picture)
  expect(XMLValidator.validate(svg)).toBe(true)
  const { svg: root } = new XMLParser({ ignoreAttributes: false, processEntities: true }).parse(svg)
  const texts = [...svg.matchAll(/<text[^>]*>([^<]*)<\/text>/g)].map(m => m[1])
  return { svg, root, texts }
}

test('the heat map names layers, capabilities and the unit, and prints each cell', async () => {
  const { texts, root } = await drawn(layersPicture(analysis()))
  for (const text of ['0', '1', '2', 'layer', 'capability', 'code_generation', 'translation', '4.3', '-0.10'])
    expect(texts).toContain(text)
  expect(texts.join()).toContain('nats per completion token')
  expect(texts).toContain('demo version 1: 11 samples, 5 to 6 of each capability')
  expect(root.title['#text']).toBe('What the layers of pico carry')
  expect(root.desc['#text']).toContain('Greatest: layer 0 for code_generation, 4.25')
})

test('the model map goes from embedding to head and says what each layer carries most', async () => {
  const { texts, svg } = await drawn(mapPicture(analysis()))
  const rows = texts.filter(t => t && /^(embedding|layer \d|output head)$/.test(t))
  expect(rows).toEqual(['embedding', 'layer 0', 'layer 1', 'layer 2', 'output head'])
  for (const text of ['code_generation 4.25', 'translation 0.50', 'no loss without it']) expect(texts).toContain(text)
  expect(svg).toContain('layer 2: none')
  // No bar that could be read as a value.
  expect(texts.filter(t => t === 'always kept, not measured')).toHaveLength(2)
})

test('the model map leaves it open which of several capabilities within 5 % a layer carries', async () => {
  const { texts, svg } = await drawn(mapPicture(analysis({ layers: [{ layerIndex: 12, lossIncrease: [0.41, 0.42] }] })))
  for (const text of ['translation 0.42, code_generation 0.41', 'several, within 5 % of each other'])
    expect(texts).toContain(text)
  expect(texts).not.toContain('translation')
  expect(svg).toContain('fill="#9a9a9a"')
})

test('the model map’s axis has round figures, spread although bars are as long as the square root', () => {
  expect(rootTicks(12.77)).toEqual([0, 0.1, 0.5, 1, 2, 5, 10])
  expect(rootTicks(0.004)).toEqual([0, 0.001, 0.002])
})

test('colours of the heat map tell losses of the middle apart, whatever the first layer costs', () => {
  const middle = Array.from({ length: 40 }, (_, i) => (10 + i) / 100)
  expect(colourRange([12.5, 5, -0.2, 0, ...middle])).toEqual({ least: 0.12, greatest: 12.5 })
  // Nothing to tell apart, and nothing lost.
  expect(colourRange([2, 2])).toEqual({ least: 1, greatest: 2 })
  expect(colourRange([-1, 0])).toEqual({ least: 0.005, greatest: 0.01 })
})

test('the students’ plot draws estimated recipes hollow, measured ones filled, and the fronts in words', async () => {
  const list = [recipe(), recipe({ parameterCount: 1_500_000, quality: 0.95, measured: true, capability: null })]
  const { texts, root } = await drawn(studentsPicture(recipes(list)))
  for (const text of ['translation', 'by hand', 'parent', 'parameters, millions']) expect(texts).toContain(text)
  expect(root.desc['#text']).toContain(
    'translation 22 of 30 layers, 1,000,000 parameters, quality 0.800; cut 22 of 30 layers, 1,500,000 parameters, quality 0.950',
  )
  expect(root.desc['#text']).toContain(
    '1 of them measured on the built student, the others estimated; 1 more have no quality beside it',
  )
})

test('the students’ plot tells by symbol what is cut, and names the layers of the points on the front', async () => {
  const list = [
    recipe(),
    recipe({ fitted: true, layerCount: 20, parameterCount: 900_000, quality: 0.7, validationSamples: 6 }),
    recipe({ pruned: true, layerCount: 25, parameterCount: 1_100_000, quality: 0.6 }),
  ]
  const { texts } = await drawn(studentsPicture(recipes(list)))
  for (const text of ['22 of 30', '20 of 30', 'layers left out', 'and cuts fitted', 'and heads or units pruned'])
    expect(texts).toContain(text)
  expect(texts).not.toContain('25 of 30')
  expect(texts).not.toContain('pruned and fitted')
  expect(texts.join()).toContain('each estimate rests on 6 validation samples')
})

const heads = (changes: Partial<PictureHeads> = {}): PictureHeads => ({
  modelName: 'pico',
  probeSet: 'demo version 1',
  samples: [6, 6],
  importance: [
    [0.5, 0.02, 0.004, 12.3],
    [0.25, 0, 0.03, 0.1],
  ],
  groups: [
    [0, 0, 1, 1],
    [0, 0, 1, 1],
  ],
  masked: [{ layerIndex: 1, keyValueHeadIndex: 0, lossIncrease: 0.0125 }],
  ...changes,
})

test('the picture of heads prints each figure, boxes measured groups and says what they lose', async () => {
  const { texts, root, svg } = await drawn(headsPicture(heads()))
  for (const text of ['query head', 'layer', '0.50', '.020', '.0040', '12', '.0000']) expect(texts).toContain(text)
  expect(root.desc['#text']).toContain('Greatest: layer 0 head 3, 12.300')
  expect(root.desc['#text']).toContain('layer 1 group 0: 0.013')
  expect(texts).toContain('0–1: 0.013')
  const [box] = svg.match(/<path[^>]*stroke="#d55e00"[^>]*>/g)!
  // A line is as thick on all sides only where nothing is stretched.
  expect(box).not.toContain('transform')
  expect(svg.match(/stroke="#d55e00"/g)).toHaveLength(1)
  const unmasked = await drawn(headsPicture(heads({ masked: [] })))
  expect(unmasked.svg).not.toContain('#d55e00')
  expect(unmasked.texts.join()).not.toContain('Box')
})

test('the picture of heads of a model of any size has a bounded size, equal figures included', async () => {
  const sized = (layers: number, count: number) =>
    heads({
      importance: Array.from({ length: layers }, () => new Array<number>(count).fill(0.1)),
      groups: Array.from({ length: layers }, () => Array.from({ length: count }, (_, i) => i)),
      masked: [],
    })
  for (const [layers, count] of [
    [1, 1],
    [126, 128],
    [30, 9],
  ] as const) {
    const picture = headsPicture(sized(layers, count))
    expect(Math.max(picture.width, picture.height)).toBeLessThan(2500)
    await drawn(picture)
  }
})

test('whiskers show the interval of an estimate', async () => {
  const [without, drawnInterval] = await Promise.all(
    [null, [0.5, 0.9] as [number, number]].map(interval => drawn(studentsPicture(recipes([recipe({ interval })])))),
  )
  // The line from end to end, and a cap at each.
  const lines = (svg: string) => svg.match(/<path d="M[\d.]+ [\d.]+L[\d.]+ [\d.]+"[^>]*stroke="#e69f00"/g)?.length ?? 0
  const caps = (svg: string) => svg.match(/<path d="M-1 -1[^>]*fill="#e69f00"/g)?.length ?? 0
  expect([lines(without!.svg), caps(without!.svg)]).toEqual([0, 0])
  expect([lines(drawnInterval!.svg), caps(drawnInterval!.svg)]).toEqual([1, 2])
})

test.each([
  ['heads', headsPicture(heads({ modelName: hostile, probeSet: hostile }))],
  ['layers', layersPicture(analysis({ modelName: hostile, probeSet: hostile, capabilities: [hostile, hostile] }))],
  ['map', mapPicture(analysis({ modelName: hostile, capabilities: [hostile, 'translation'] }))],
  [
    'students',
    studentsPicture(
      recipes([recipe({ name: hostile, capability: hostile }), recipe({ name: hostile, capability: null })], hostile),
    ),
  ],
])('names with markup are text in the picture of %s', async (_name, picture) => {
  const { svg } = await drawn(picture)
  expect(svg).not.toMatch(/<script|<\/text><script|javascript:|\son\w+=|<foreignObject|<image|href=/i)
  expect(svg).toContain('&lt;script')
})

test.each([1, 61, 2000])('a model of %i layers is drawn whole, in a picture of bounded size', async depth => {
  const layers = Array.from({ length: depth }, (_, layerIndex) => ({
    layerIndex,
    lossIncrease: [1 / (layerIndex + 1), 0],
  }))
  const pictures = [layersPicture(analysis({ layers })), mapPicture(analysis({ layers }))]
  for (const picture of pictures) {
    expect(Math.max(picture.width, picture.height)).toBeLessThan(7000)
    await drawn(picture)
  }
})

test('the same data gives the same text, without rules for hovering', async () => {
  const first = await renderSvg(layersPicture(analysis()))
  expect(await renderSvg(layersPicture(analysis()))).toBe(first)
  expect(first).not.toMatch(/<style|:hover|object Object/)
})

test('the Pareto front leaves out what a smaller or equal recipe of at least the same quality beats', () => {
  const sizes = [
    [3, 0.9],
    [1, 0.5],
    [2, 0.4],
    [2, 0.7],
    [4, 0.9],
  ].map(([parameterCount, quality]) => ({ parameterCount: parameterCount!, quality: quality! }))
  expect(paretoFront(sizes).map(p => p.parameterCount)).toEqual([1, 2, 3])
  expect(paretoFront([])).toEqual([])
})

test('the heaviest capability is the one that loses most, several where that is a near thing, none where nothing is lost', () => {
  expect(heaviest([0.2, null, 0.7])).toEqual([{ capability: 2, loss: 0.7 }])
  expect(heaviest([0.41, 0.42, 0.39]).map(({ capability }) => capability)).toEqual([1, 0])
  expect(heaviest([-0.2, 0, null])).toEqual([])
})

test('figures and texts are short and sayable', () => {
  expect([0.004, -0.004, 0.25, -1.234, 12.7].map(nats)).toEqual(['0.00', '0.00', '0.25', '-1.2', '13'])
  expect(plainText('a\u0000b\n c 😀')).toBe('a\ufffdb c 😀')
  expect(plainText('😀'.repeat(10), 4)).toBe('😀😀😀…')
})
