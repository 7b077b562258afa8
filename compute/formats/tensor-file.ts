// What every weight file is once its header is read: tensors with absolute byte ranges that are known to be sound.
import { DomainError } from '../../lib/errors.js'

export interface TensorEntry {
  name: string
  /** The format's own name of the element type. */
  dtype: string
  /** Row-major, outermost first. */
  shape: number[]
  /** From the start of the file. */
  offset: number
  bytes: number
}

export interface TensorFile {
  format: 'safetensors' | 'gguf'
  /** Bytes before the tensor data. */
  headerBytes: number
  /** In the order of their offsets. */
  tensors: TensorEntry[]
}

/** More dimensions than any tensor of a model has; ggml allows 4, NumPy 64. */
export const maximumDimensions = 16
/** Tensors of one file: twice what the largest published mixtures of experts have in all their shards. */
export const maximumTensors = 200_000
/** Longest tensor name in UTF-8 bytes or characters: names of real models stay under 200. */
export const maximumNameLength = 1024
/** Bytes between two tensors that belong to neither: alignment padding. More would be data that no header names. */
export const maximumGapBytes = 1024 * 1024

export const invalid = (message: string) => new DomainError('INVALID_MODEL_FILE', message)

/** Product of the dimensions; refuses what is negative, fractional or beyond 2^53. */
export function checkedElements(shape: readonly unknown[], what: string): number {
  if (shape.length > maximumDimensions)
    throw invalid(`${what}: ${shape.length} dimensions, at most ${maximumDimensions}`)
  let product = 1
  for (const [axis, size] of shape.entries()) {
    if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) {
      throw invalid(`${what}: shape[${axis}] is ${describeValue(size)}, expected a whole number from 0 to 2^53`)
    }
    product *= size
    if (!Number.isSafeInteger(product)) throw invalid(`${what}: shape [${shape}] has more than 2^53 elements`)
  }
  return product
}

/** A foreign value as text of bounded length. */
export function describeValue(value: unknown): string {
  const text = typeof value === 'object' ? (JSON.stringify(value) ?? String(value)) : String(value)
  return text.length > 80 ? `${text.slice(0, 80)}…` : text
}

/**
 * Sorts the entries by offset and refuses overlaps, ranges outside the file, gaps of more than padding and duplicate names.
 * @param dataStart first byte that may belong to a tensor
 * @param end size of the file
 */
export function checkLayout(file: string, tensors: TensorEntry[], dataStart: number, end: number): TensorEntry[] {
  const names = new Set<string>()
  for (const tensor of tensors) {
    if (names.has(tensor.name)) throw invalid(`${file}: tensor ${describeValue(tensor.name)} appears twice`)
    names.add(tensor.name)
    if (tensor.offset < dataStart || tensor.offset + tensor.bytes > end) {
      throw invalid(
        `${file}: tensor ${describeValue(tensor.name)}: bytes ${tensor.offset} to ${tensor.offset + tensor.bytes}, but the tensor data lies from ${dataStart} to ${end}`,
      )
    }
  }
  const sorted = [...tensors].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes)
  let at = dataStart
  for (const tensor of sorted) {
    if (tensor.offset < at) {
      throw invalid(
        `${file}: tensor ${describeValue(tensor.name)}: begins at byte ${tensor.offset}, inside another tensor that ends at ${at}`,
      )
    }
    checkGap(file, at, tensor.offset)
    at = tensor.offset + tensor.bytes
  }
  checkGap(file, at, end)
  return sorted
}

function checkGap(file: string, from: number, to: number) {
  if (to - from <= maximumGapBytes) return
  throw invalid(`${file}: bytes ${from} to ${to} belong to no tensor (padding is at most ${maximumGapBytes} bytes)`)
}
