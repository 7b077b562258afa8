// Which layers a recipe keeps: validation of its ranges. What they come to in parameters is in recipe-size.ts.
import { DomainError } from '../../lib/errors.js'

/** [from, to) layers of the parent, or of another model of its shape. */
export interface LayerRangeValue {
  from: number
  to: number
  reason?: string
  /** Row id of the other model. */
  modelId?: string
}

/** Layers a student may have: far beyond every model, and a recipe of them is still a small row. */
const mostLayers = 2_000

/**
 * Checks the ranges against the depth of the models they are of. They may come in any order, overlap and repeat.
 * @param others the models other than the parent that ranges are of, by row id
 * @throws INVALID_RECIPE that names the range and the number at fault
 */
export function checkLayers(
  layers: readonly LayerRangeValue[],
  parent: { name: string; layerCount: number },
  field = ['input', 'layers'],
  others: ReadonlyMap<string, { name: string; layerCount: number }> = new Map(),
): void {
  const refuse = (message: string, ...at: (string | number)[]) => {
    throw new DomainError('INVALID_RECIPE', message, { field: [...field, ...at.map(String)] })
  }
  if (layers.length === 0) refuse('layers: a student keeps at least one range of layers')
  for (const [i, { from, to, modelId }] of layers.entries()) {
    const model = (modelId !== undefined && others.get(modelId)) || parent
    const { name, layerCount } = model
    if (layerCount === 0) {
      refuse(
        `model "${name}" has 0 layers that are known here, so none can be kept; its architecture may be unknown (no config.json beside the weights)`,
      )
    }
    const range = `layers[${i}] [${from}, ${to})`
    if (!Number.isInteger(from) || !Number.isInteger(to)) refuse(`${range}: both ends are whole numbers`, i)
    if (from < 0) refuse(`${range}: begins below 0`, i, 'from')
    if (from >= to) refuse(`${range}: is empty; "to" is exclusive and greater than "from"`, i, 'to')
    if (to > layerCount) refuse(`${range}: model "${name}" has ${layerCount} layers, 0 to ${layerCount - 1}`, i, 'to')
  }
  const count = countLayers(layers)
  if (count > mostLayers) refuse(`layers: ${count} layers in all, at most ${mostLayers}`)
}

export const countLayers = (layers: readonly LayerRangeValue[]): number =>
  layers.reduce((sum, { from, to }) => sum + to - from, 0)

/** Parent layer of each student layer, in the student's order. */
export const keptLayers = (layers: readonly LayerRangeValue[]): number[] =>
  layers.flatMap(({ from, to }) => Array.from({ length: to - from }, (_, i) => from + i))

/** One key for the same cut, however its ranges are split: `0-20,29`, layers of other models with their id. */
export function layersKey(layers: readonly LayerRangeValue[]): string {
  const runs: { model: string; first: number; last: number }[] = []
  for (const { from, to, modelId: model = '' } of layers) {
    const before = runs.at(-1)
    if (before && before.model === model && before.last + 1 === from) before.last = to - 1
    else runs.push({ model, first: from, last: to - 1 })
  }
  return runs
    .map(({ model, first, last }) => `${model && `${model}:`}${first === last ? first : `${first}-${last}`}`)
    .join(',')
}
