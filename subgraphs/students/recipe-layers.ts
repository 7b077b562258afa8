// Which layers a recipe keeps: validation of its ranges and the exact number of parameters they come to.
import { DomainError } from '../../lib/errors.js'

/** [from, to) layers of the parent. */
export interface LayerRangeValue {
  from: number
  to: number
  reason?: string
}

/**
 * Checks the ranges against the parent's depth. Ranges may come in any order; a layer may be kept once.
 * @throws INVALID_RECIPE that names the range and the number at fault
 */
export function checkLayers(
  layers: readonly LayerRangeValue[],
  parent: { name: string; layerCount: number },
  field = ['input', 'layers'],
): void {
  const refuse = (message: string, ...at: (string | number)[]) => {
    throw new DomainError('INVALID_RECIPE', message, { field: [...field, ...at.map(String)] })
  }
  if (layers.length === 0) refuse('layers: a student keeps at least one range of layers')
  if (parent.layerCount === 0) {
    refuse(
      `model "${parent.name}" has 0 layers that are known here, so none can be kept; its architecture may be unknown (no config.json beside the weights)`,
    )
  }
  const keptBy = new Map<number, string>()
  for (const [i, { from, to }] of layers.entries()) {
    const range = `layers[${i}] [${from}, ${to})`
    if (!Number.isInteger(from) || !Number.isInteger(to)) refuse(`${range}: both ends are whole numbers`, i)
    if (from < 0) refuse(`${range}: begins below 0`, i, 'from')
    if (from >= to) refuse(`${range}: is empty; "to" is exclusive and greater than "from"`, i, 'to')
    if (to > parent.layerCount)
      refuse(`${range}: model "${parent.name}" has ${parent.layerCount} layers, 0 to ${parent.layerCount - 1}`, i, 'to')
    for (let layer = from; layer < to; layer++) {
      const other = keptBy.get(layer)
      if (other) refuse(`${range}: keeps layer ${layer} again, which ${other} keeps already`, i)
      keptBy.set(layer, range)
    }
  }
}

export const countLayers = (layers: readonly LayerRangeValue[]): number =>
  layers.reduce((sum, { from, to }) => sum + to - from, 0)

/** Parent layer of each student layer, in the student's order. */
export const keptLayers = (layers: readonly LayerRangeValue[]): number[] =>
  layers.flatMap(({ from, to }) => Array.from({ length: to - from }, (_, i) => from + i))

/** Elements of a model's tensors, summed per layer. */
export function sumLayerParameters(
  tensors: Iterable<{ layerIndex: number | null; shape: readonly number[] }>,
): Map<number, number> {
  const sums = new Map<number, number>()
  for (const { layerIndex, shape } of tensors) {
    if (layerIndex === null) continue
    const elements = shape.reduce((product, size) => product * size, 1)
    sums.set(layerIndex, (sums.get(layerIndex) ?? 0) + elements)
  }
  return sums
}

/**
 * Exact parameter count of the student: the parent's, less the layers that go. What lies outside layers (embedding, norm, head)
 * stays, counted as the parent counts it.
 */
export function countParameters(
  parent: { parameterCount: number; perLayer: ReadonlyMap<number, number> },
  layers: readonly LayerRangeValue[],
): number {
  const kept = new Set(keptLayers(layers))
  let count = parent.parameterCount
  for (const [layer, parameters] of parent.perLayer) if (!kept.has(layer)) count -= parameters
  return count
}

/** One key for the same cut, however its ranges are split: `0-20,29`. */
export function layersKey(layers: readonly LayerRangeValue[]): string {
  const runs: [number, number][] = []
  for (const layer of keptLayers(layers)) {
    const last = runs.at(-1)
    if (last && last[1] + 1 === layer) last[1] = layer
    else runs.push([layer, layer])
  }
  return runs.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(',')
}
