// Whether a training run keeps the inside of all layers for its backward pass, or computes it anew.
import type { BuildableModel } from '../architectures/registry.js'
import { elementCount } from '../formats/float-weights.js'
import { activationBytes } from './activation-bytes.js'
import { type TrainingGraphOptions, trainedNames, trainedShape } from './training-graph.js'

/** A trained number, its gradient and its two moments in float32; passes beyond the first of a step have gradients of their own. */
const trainedBytes = 16
const furtherGradientBytes = 4
/** Of weights that are only read: the frozen ones and the teacher's. */
const readBytes = 4

export interface RunSize extends Pick<TrainingGraphOptions, 'trained' | 'lora'> {
  /** Rows of one pass, passes of one step, tokens of a row. */
  batchRows: number
  accumulation: number
  sequence: number
  /** Absent: there is none. */
  teacher?: BuildableModel | undefined
  /** Share of the rows that the student writes itself; its weights are then opened once more for that. */
  onPolicy?: number | undefined
}

const weightsOf = (model: BuildableModel, but: readonly string[] = []) =>
  [...model.tensors].reduce((sum, [role, { shape }]) => sum + (but.includes(role) ? 0 : elementCount(shape)), 0)

/** Bytes that a run holds besides its activations. */
export function heldBytes(model: BuildableModel, { trained, lora, accumulation, teacher, onPolicy }: RunSize): number {
  const numbers = trainedNames({ trained, lora }).reduce(
    (sum, name) => sum + elementCount(trainedShape(model, name, lora)),
    0,
  )
  const perTrained = trainedBytes + (accumulation > 1 ? furtherGradientBytes : 0)
  const merged = (lora?.targets ?? []).reduce((sum, role) => sum + elementCount(model.tensors.get(role)!.shape), 0)
  const writing = onPolicy ? weightsOf(model) + merged : 0
  const read = weightsOf(model, trained) + (teacher ? weightsOf(teacher) : 0) + writing
  return numbers * perTrained + read * readBytes
}

/** Whether activations would take more than half of the memory that weights, gradients, moments and the teacher leave of `free` bytes. */
export const needsRecompute = (model: BuildableModel, size: RunSize, free = process.availableMemory()): boolean =>
  activationBytes(model.dimensions, size.batchRows, size.sequence) > (free - heldBytes(model, size)) / 2
