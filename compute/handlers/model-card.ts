// The model card of an export, and the same facts as one paragraph for formats that hold a description. Every number is one that was
// measured and stored; what was not measured is said to be so.
import { stringify } from 'yaml'
import type { Manifest } from '../../lib/manifest.js'
import type { Ancestor, FactScore, ModelFacts } from '../../lib/model-facts.js'
import { quantity } from '../../lib/quantity.js'
import { elementCount } from '../formats/float-weights.js'
import { isQuantized } from '../formats/ggml-types.js'
import type { TensorStream } from './tensor-streams.js'

/** Front matter key by which a model that comes back is known; what it says is checked against the tensors. */
export const manifestKey = 'hartonomous_manifest'

export const cardName = 'README.md'

export interface CardSubject {
  name: string
  manifest: Manifest
  manifestHash: string
  facts: ModelFacts
  /** The library that opens the files, as the hub names it. */
  library: 'transformers' | 'transformers.js'
  /** What is in the files. */
  tensors: readonly Pick<TensorStream, 'dtype' | 'shape'>[]
  /** Sentences on what the files hold that the model does not say. */
  notes?: readonly string[]
}

const cell = (text: string) => text.replace(/\s+/g, ' ').replace(/\|/g, '\\|').trim()
const number = (value: number) => (Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(5))))

/** `owner/name` of a model that came from a hub. */
const hubName = ({ source }: Ancestor) => /^hf:([\w.-]+\/[\w.-]+)/i.exec(source ?? '')?.[1]

/** What other programs may find a model by. */
export const publicName = (ancestor: Ancestor): string => hubName(ancestor) ?? ancestor.name

/** Models it comes from, nearest first. */
const ancestors = ({ lineage }: ModelFacts) => lineage.slice(1)

function frontMatter({ name, manifest, manifestHash, facts, library }: CardSubject): string {
  const [root] = facts.lineage.slice(-1)
  const license = manifest.license ?? root?.license
  const base = root && hubName(root)
  const capabilities = [...new Set(facts.scores.map(s => s.capability.split('/')[0]!))]
  const relation = manifest.quantisedFrom ? 'quantized' : 'finetune'
  const matter = {
    ...(license ? { license } : {}),
    // The hub takes names of its own repositories only.
    ...(base && ancestors(facts).length > 0 ? { base_model: base, base_model_relation: relation } : {}),
    library_name: library,
    pipeline_tag: 'text-generation',
    tags: ['hartonomous', manifest.architecture, ...capabilities],
    ...(facts.scores.length > 0 ? { 'model-index': [{ name, results: facts.scores.map(indexEntry) }] } : {}),
    [manifestKey]: manifestHash,
  }
  return `---\n${stringify(matter, { lineWidth: 0 })}---\n`
}

const indexEntry = ({ capability, probeDataset, split, loss, perplexity, accuracy }: FactScore) => ({
  task: { type: 'text-generation' },
  dataset: { name: `${probeDataset}, ${capability}`, type: capability, split },
  metrics: [
    { type: 'perplexity', value: perplexity },
    { type: 'loss', value: loss },
    ...(accuracy === null ? [] : [{ type: 'accuracy', value: accuracy }]),
  ],
})

/** Where it comes from, in one sentence. */
export function lineageText(name: string, facts: ModelFacts): string {
  const [self, ...above] = facts.lineage
  const from = above.map(a => (a.source ? `${a.name} (from ${a.source})` : a.name)).join(', which comes from ')
  if (above.length === 0) return `${name}, ingested from ${self!.source ?? 'an unknown place'}.`
  const others = facts.layersFrom?.map(a => a.name) ?? []
  const mixed = others.length > 0 ? ` Some of its layers are those of ${inWords(others)}.` : ''
  return `${name}: ${self!.objective ?? 'built by Hartonomous'}. It comes from ${from}.${mixed}`
}

/** The scores in one sentence. */
export function scoresText({ scores }: ModelFacts): string {
  if (scores.length === 0) return 'Nothing was measured on it.'
  const all = scores.map(s => `${s.capability} ${number(s.perplexity)} (${s.split})`)
  return `Measured perplexity: ${all.join(', ')}.`
}

export function modelCard(subject: CardSubject): string {
  const { name, manifest, facts } = subject
  const parts = [
    `${frontMatter(subject)}\n# ${name}${facts.version ? ` ${facts.version}` : ''}\n`,
    lineageText(name, facts),
    `\n## Lineage\n\n${facts.lineage.map(lineageLine).join('\n')}${otherLayers(facts)}`,
    `\n## How it was built\n\n${facts.history.map(line => `- ${cell(line)}`).join('\n')}${builtFigures(facts)}`,
    facts.recipe ? `\n## Recipe\n\n\`\`\`yaml\n${facts.recipe.trimEnd()}\n\`\`\`` : '',
    `\n## Scores\n\n${scores(facts)}`,
    `\n## Weights\n\n${weights(subject)}`,
    `\n## Limits\n\n${limits(manifest, facts)}`,
  ]
  return `${parts.filter(Boolean).join('\n')}\n`
}

function lineageLine({ name, parameterCount, layerCount, source, manifest, license }: Ancestor): string {
  const from = source ? `, ingested from \`${source}\`` : ''
  const under = license ? `, licence ${cell(license)}` : ''
  return `- ${cell(name)}: ${quantity(parameterCount)} parameters, ${layerCount} layers${under}${from} (manifest \`${manifest}\`)`
}

const otherLayers = ({ layersFrom = [] }: ModelFacts): string =>
  layersFrom.length > 0 ? `\n\nSome of its layers are of:\n\n${layersFrom.map(lineageLine).join('\n')}` : ''

const inWords = (names: readonly string[]) =>
  names.length > 1 ? `${names.slice(0, -1).join(', ')} and ${names.at(-1)}` : names.join('')

function builtFigures({ built }: ModelFacts): string {
  const rows = built.flatMap(({ step, figures }) =>
    Object.entries(figures).map(([key, value]) => `| ${step} | ${cell(key)} | ${cell(show(value))} |`),
  )
  if (rows.length === 0) return ''
  return `\n\n| step | figure | value |\n|---|---|---|\n${rows.join('\n')}`
}
const show = (value: number | string | boolean) => (typeof value === 'number' ? number(value) : String(value))

function scores({ scores: all, quality, besideTeacher }: ModelFacts): string {
  if (all.length === 0) return 'No scores: nothing was measured on this model.'
  const rows = all.map(s => {
    const interval = s.interval ? `${number(s.interval[0])} – ${number(s.interval[1])}` : 'none (one sample)'
    const accuracy = s.accuracy === null ? '' : number(s.accuracy)
    return `| ${s.capability} | ${number(s.perplexity)} | ${number(s.loss)} | ${interval} | ${accuracy} | ${s.sampleCount} | ${s.split} | ${cell(s.probeDataset)} | ${s.measuredAt} |`
  })
  const reference = besideTeacher ? 'teacher' : 'parent'
  const compared =
    quality === null
      ? ''
      : `\n\nQuality beside its ${reference}, exp(-(its loss - the ${reference}'s)): ${number(quality)}; 1 is the ${reference}.`
  return (
    'Loss is the mean negative log-likelihood in nats per completion token, perplexity its exponential; the interval is that of the loss at 95 %, by bootstrap over samples. ' +
    'Accuracy is the share of samples whose every completion token is the likeliest one.\n\n' +
    '| capability | perplexity | loss | interval | accuracy | samples | split | probe set | measured |\n|---|---|---|---|---|---|---|---|---|\n' +
    `${rows.join('\n')}${compared}`
  )
}

function weights({ manifest, tensors, notes = [] }: CardSubject): string {
  const stored = typeCounts(manifest.tensors)
  const written = typeCounts(tensors)
  const lines = [`- In these files: ${written}.`]
  if (stored !== written) lines.push(`- As the model is stored: ${stored}.`)
  if (manifest.quantisedFrom) lines.push(`- Quantised from the model with manifest \`${manifest.quantisedFrom}\`.`)
  return [...lines, ...notes.map(note => `- ${note}`)].join('\n')
}

/** `210 tensors BF16 (135 M parameters), 61 tensors F32 (35 k parameters)` */
function typeCounts(tensors: readonly Pick<TensorStream, 'dtype' | 'shape'>[]): string {
  const counts = new Map<string, { tensors: number; parameters: number }>()
  for (const { dtype, shape } of tensors) {
    const count = counts.get(dtype) ?? { tensors: 0, parameters: 0 }
    counts.set(dtype, { tensors: count.tensors + 1, parameters: count.parameters + elementCount(shape) })
  }
  return [...counts]
    .sort((a, b) => b[1].parameters - a[1].parameters)
    .map(([dtype, c]) => `${c.tensors} tensors ${dtype} (${quantity(c.parameters)} parameters)`)
    .join(', ')
}

function limits(manifest: Manifest, facts: ModelFacts): string {
  const { contextLength } = manifest.dimensions
  const parent = facts.lineage[1]
  const lines = [
    contextLength === undefined
      ? 'The source does not say how long its context is.'
      : `At most ${contextLength} tokens of context.`,
  ]
  if (facts.scores.length === 0) lines.push('Nobody measured what it can do.')
  else
    lines.push(
      'The scores hold for the probe sets named, and for capabilities that are listed; what is not listed was not measured.',
    )
  if (parent && manifest.dimensions.layerCount < parent.layerCount)
    lines.push(
      `It has ${manifest.dimensions.layerCount} of the ${parent.layerCount} layers of ${parent.name}: expect it to be worse wherever no score says otherwise.`,
    )
  if (manifest.tensors.some(t => isQuantized(t.dtype))) lines.push('Its weights are rounded to blocks of few bits.')
  if (manifest.unsupported) lines.push(`Settings that Hartonomous does not run: ${manifest.unsupported.join(', ')}.`)
  return lines.map(line => `- ${line}`).join('\n')
}
