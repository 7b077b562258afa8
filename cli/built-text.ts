// What a build made, as text.
import { quantity, took } from '../lib/client/watch-job.js'
import { comparisonText, fusionText, searchText } from './change-text.js'
import type { BuildStage, Comparison, FusionResult, ModelDetail, SchemeSearch } from './results.js'

/** How much of a student is new: none, all or a part of its bytes. */
export function bytesText({ sizeBytes, uniqueBytes }: Pick<ModelDetail, 'sizeBytes' | 'uniqueBytes'>): string {
  const [size, own] = [quantity(Number(sizeBytes), 'bytes'), quantity(Number(uniqueBytes), 'bytes')]
  if (Number(uniqueBytes) === 0) return `All of its ${size} are its parent's.`
  if (own === size) return `All of its ${size} are its own.`
  return `Of its ${size} it added ${own}; the rest is its parent's.`
}

/** Training stores float32 whatever the parent had: said where the parent was quantised. */
export function storedText({ name, dtype, parent }: Pick<ModelDetail, 'name' | 'dtype' | 'parent'>): string[] {
  if (dtype !== 'F32' || !parent?.quantization || parent.quantization === 'NONE') return []
  return [
    `It is stored as float32; its parent ${parent.name} was ${parent.dtype}. \`hartonomous quantize ${name}\` makes a small model of it.`,
  ]
}

/** Held-out loss before and after training. */
export function healedText(measurements: Record<string, unknown>): string {
  const loss = (key: string) => Number(measurements[key]).toFixed(3)
  return measurements.improved === true
    ? `Held-out loss ${loss('heldOutBefore')}, then ${loss('heldOutAfter')}.`
    : `Held-out loss ${loss('heldOutBefore')} did not fall, so the weights are as they were.`
}

/** How long each stage took, where there are several, and what it measured. */
export function stageLines(stages: readonly BuildStage[]): string[] {
  return stages.flatMap(({ stage, seconds, reused, measurements }) => {
    const lines = stages.length > 1 ? [`  ${stage}: ${reused ? 'was there already' : took(seconds * 1000)}`] : []
    if (!measurements) return lines
    if (stage === 'heal') return [...lines, healedText(measurements)]
    if (stage === 'fuse') return [...lines, fusionText(measurements as unknown as FusionResult)]
    if (stage !== 'quantise') return lines
    const found = measurements as unknown as Comparison & { search?: SchemeSearch }
    return [...lines, comparisonText(found), ...(found.search ? [searchText(found.search)] : [])]
  })
}

export const builtText = (model: ModelDetail, durationMs: number | null): string =>
  `${model.name}: ${model.layerCount} layers, ${quantity(Number(model.parameterCount))} parameters, built in ${took(durationMs ?? 0)}. ${bytesText(model)}`
