// Recipes written as mergekit configurations (https://github.com/arcee-ai/mergekit): the `passthrough` method with one source per slice.
import { stringify } from 'yaml'
import type { BuildStages } from '../../lib/build-stages.js'

/** Writes a recipe so that `parseRecipeYaml` (subgraphs/students) reads the same parent and layers back; reasons become comments. */
export function printRecipeYaml(recipe: {
  model: string
  name: string
  objective: string
  /** `modelId`: row id of the model where it is not the parent. */
  layers: readonly { from: number; to: number; reason?: string; modelId?: string }[]
  stages?: BuildStages | null
  /** How the models of ranges that are not of the parent are called, by row id. */
  others?: ReadonlyMap<string, string>
}): string {
  const oneLine = (text: string) => text.replace(/\s+/g, ' ').trim()
  const header = [recipe.name, recipe.objective].map(line => `# ${oneLine(line)}\n`).join('')
  const slices = recipe.layers.map(({ from, to, reason, modelId }) => {
    const comment = reason ? ` # ${oneLine(reason)}` : ''
    const model = stringify((modelId !== undefined && recipe.others?.get(modelId)) || recipe.model, {
      lineWidth: 0,
    }).trimEnd()
    return `  - sources:\n      - model: ${model}\n        layer_range: [${from}, ${to}]${comment}\n`
  })
  // Where nothing says which model is the parent, that of the first slice is.
  const parent = recipe.layers[0]?.modelId === undefined ? {} : { parent: recipe.model }
  const own = { ...parent, ...withoutTexts(recipe.stages ?? {}) }
  const section = Object.keys(own).length > 0 ? stringify({ hartonomous: own }, { lineWidth: 0 }) : ''
  return `${header}merge_method: passthrough\nslices:\n${slices.join('')}${section}`
}

/** Texts that stages measure and compare on are chosen anew where a recipe is read: a payload's hash means something on one platform only. */
function withoutTexts({ calibration: _measuredOn, quantization, fusion, ...own }: BuildStages) {
  const { probeSet: _calibratedWith, ...codes } = quantization ?? {}
  const { probeSet: _comparedOn, ...fused } = fusion ?? {}
  return { ...own, ...(quantization ? { quantization: codes } : {}), ...(fusion ? { fusion: fused } : {}) }
}
