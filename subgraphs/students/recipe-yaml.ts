// Recipes as mergekit configurations: the `passthrough` method with one source per slice, read here; `subgraphs/build/print-recipe.ts` writes them.
// Format: https://github.com/arcee-ai/mergekit ("slices", "layer_range" is [from, to) as here).
import { parseDocument } from 'yaml'
import { z } from 'zod'
import { buildStagesSchema } from '../../lib/build-stages.js'
import { DomainError } from '../../lib/errors.js'
import { healingSchema } from '../../lib/healing.js'
import { hashSchema } from '../../lib/manifest.js'

/** A recipe that keeps every second of 1,000 layers is a tenth of this. */
export const maximumYamlCharacters = 262_144

const source = z.strictObject({
  model: z.string().min(1),
  layer_range: z.tuple([z.number().int(), z.number().int()]),
})
const { headPruning, feedForwardPruning, quantization, fusion, ...otherStages } = buildStagesSchema.omit({
  calibration: true,
}).shape
/** What mergekit does not know: stages of the build, under a key of our own that it ignores. Keys that a stage does not have are refused, not dropped. */
const stagesSection = z.strictObject({
  ...otherStages,
  headPruning: headPruning.unwrap().strict().optional(),
  feedForwardPruning: feedForwardPruning.unwrap().strict().optional(),
  quantization: quantization.unwrap().strict().optional(),
  fusion: fusion.unwrap().strict().optional(),
  /** Without texts of its own it takes the product's. */
  healing: healingSchema.extend({ data: hashSchema.optional() }).strict().optional(),
})
export type StagesAsked = z.infer<typeof stagesSection>
/** `parent`: id or name of the model whose embedding, head and tokenizer the student has. */
const ownSection = stagesSection.extend({ parent: z.string().min(1).optional() })
const configuration = z.strictObject({
  name: z.string().min(1).max(200).optional(),
  merge_method: z.literal('passthrough'),
  slices: z.array(z.strictObject({ sources: z.array(source).length(1) })).min(1),
  dtype: z.string().optional(),
  hartonomous: ownSection.optional(),
})

export interface RecipeYaml {
  /** Id or name of the parent model: the one that is said to be it, else that of the first slice. */
  model: string
  /** Each with the id or name of its model. */
  layers: { from: number; to: number; model: string }[]
  /** What is done beyond that. */
  stages: StagesAsked | null
  /** What the student is called, where the configuration says it. */
  name: string | null
  /** mergekit's name of a dtype, where the configuration asks for one. */
  dtype: string | null
}

/**
 * Reads a mergekit passthrough configuration. What it can say beyond cutting one model (other methods, several sources, scaling,
 * tokenizers) is refused by name rather than ignored.
 * @throws INVALID_RECIPE with line or path
 */
export function parseRecipeYaml(text: string, field = ['input', 'yaml']): RecipeYaml {
  const refuse = (message: string): never => {
    throw new DomainError('INVALID_RECIPE', message, { field })
  }
  if (text.length > maximumYamlCharacters) refuse(`yaml: ${text.length} characters, at most ${maximumYamlCharacters}`)
  const document = parseDocument(text, { schema: 'core', prettyErrors: true })
  const problem = document.errors[0]
  if (problem) refuse(`yaml: ${problem.message.split('\n')[0]}`)
  let value: unknown
  try {
    // Anchors may be used; a configuration that multiplies itself through them may not.
    value = document.toJS({ maxAliasCount: 100 })
  } catch (error) {
    refuse(`yaml: ${(error as Error).message}`)
  }
  const parsed = configuration.safeParse(value)
  if (!parsed.success) return refuse(parsed.error.issues.map(describe).join('; '))
  const sources = parsed.data.slices.map(slice => slice.sources[0]!)
  const { parent, ...stages } = parsed.data.hartonomous ?? {}
  return {
    model: parent ?? sources[0]!.model,
    layers: sources.map(({ model, layer_range: [from, to] }) => ({ from, to, model })),
    stages: Object.keys(stages).length > 0 ? stages : null,
    name: parsed.data.name?.trim() || null,
    dtype: parsed.data.dtype ?? null,
  }
}

function describe(issue: z.core.$ZodIssue): string {
  const path = issue.path.reduce<string>(
    (text, part) => text + (typeof part === 'number' ? `[${part}]` : `.${String(part)}`),
    'yaml',
  )
  if (issue.code === 'unrecognized_keys' && issue.path[0] === 'hartonomous' && issue.path.length > 1)
    return `${path}: has no ${issue.keys.join(', ')}`
  if (issue.code === 'unrecognized_keys')
    return `${path}: ${issue.keys.join(', ')} ${issue.keys.length > 1 ? 'are' : 'is'} not supported in a recipe (only merge_method: passthrough, slices of one source with model and layer_range, name, dtype, hartonomous)`
  return `${path}: ${issue.message}`
}

/** mergekit's dtype names and the sources' own names for them. */
const dtypeNames: Record<string, string> = { float32: 'F32', float16: 'F16', bfloat16: 'BF16' }

/**
 * A student keeps its parent's stored bytes, so a configuration may only ask for the dtype that the parent has.
 * @throws INVALID_RECIPE where it asks for another
 */
export function checkYamlDtype(
  dtype: string | null,
  parent: { name: string; dtype: string },
  field = ['input', 'yaml'],
) {
  if (dtype === null || dtypeNames[dtype] === parent.dtype) return
  throw new DomainError(
    'INVALID_RECIPE',
    `yaml.dtype: ${dtype}, but model "${parent.name}" is stored as ${parent.dtype} and a student shares its parent's tensors; leave dtype out`,
    { field },
  )
}
