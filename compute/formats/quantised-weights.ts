// Quantised matrices in the layout of the quantised kernels: a file derived once from the stored blocks, without loss, and kept as a cache.
import { createHash } from 'node:crypto'
import { DomainError } from '../../lib/errors.js'
import {
  type DerivedContext,
  elementCount,
  ensureDerived,
  type StoredTensor,
  storedBytes,
  writeAll,
} from './float-weights.js'
import { ggmlTypeByName } from './ggml-types.js'
import { type QuantisedForm, quantisedForm, unpackBlocks } from './quantised-blocks.js'

export interface QuantisedMatrix {
  form: QuantisedForm
  /** Rows of all tensors together, and their common width. */
  rows: number
  columns: number
  path: string
  /** Where in the file what lies, in bytes; offsets only where the form has them. */
  codes: Section
  scales: Section
  offsets: Section
}
export interface Section {
  offset: number
  length: number
}

/** The form a tensor can be multiplied in as it is stored; undefined where only its float32 form can. */
export function matrixForm({ dtype, shape }: Pick<StoredTensor, 'dtype' | 'shape'>): QuantisedForm | undefined {
  const form = quantisedForm(dtype)
  const type = ggmlTypeByName(dtype)
  // Blocks must not span rows, which ggml's own files never let them.
  return form && type && shape.length === 2 && shape[1]! % type.blockSize === 0 ? form : undefined
}

/** Part of a matrix unpacked at once: some 8 MB of codes. */
const stepElements = 8 * 1024 * 1024

function layout(form: QuantisedForm, rows: number, columns: number) {
  const blocks = columns / form.blockSize
  const lengths = {
    codes: (rows * columns * form.bits) / 8,
    scales: rows * blocks * 4,
    offsets: form.offsets ? rows * blocks * 4 : 0,
  }
  let at = 0
  const section = (length: number): Section => {
    const own = { offset: at, length }
    at += length
    return own
  }
  const sections = {
    codes: section(lengths.codes),
    scales: section(lengths.scales),
    offsets: section(lengths.offsets),
  }
  return { sections, bytes: at }
}

/** Bytes of the derived file of a tensor by itself, which is its share of a file of several; 0 where it has no quantised form. */
export function quantisedBytes(tensor: Pick<StoredTensor, 'dtype' | 'shape'>): number {
  const form = matrixForm(tensor)
  return form ? layout(form, tensor.shape[0]!, tensor.shape[1]!).bytes : 0
}

/**
 * The rows of all tensors, one after the other, as one matrix. They must have one form (`matrixForm`) and width.
 * @throws DomainError SHAPE_MISMATCH, PAYLOAD_MISSING, DISK_FULL
 */
export async function ensureQuantised(
  context: DerivedContext,
  tensors: readonly [StoredTensor, ...StoredTensor[]],
): Promise<QuantisedMatrix> {
  const [first] = tensors
  const form = matrixForm(first)
  if (!form) throw new Error(`tensor ${first.name}: ${first.dtype} [${first.shape}] has no quantised form`)
  const columns = first.shape[1]!
  const rows = tensors.reduce((sum, tensor) => sum + tensor.shape[0]!, 0)
  const { sections, bytes } = layout(form, rows, columns)
  const others = tensors.slice(1).map(tensor => `${tensor.payload}.${tensor.dtype}`)
  const suffix = others.length > 0 ? `+${createHash('sha256').update(others.join()).digest('hex').slice(0, 32)}` : ''
  const derived = { payload: first.payload, form: `${first.dtype}.nbits${suffix}`, bytes, of: first.name }
  const path = await ensureDerived(context, derived, async file => {
    let row = 0
    for (const tensor of tensors) {
      for await (const blocks of unpackedRows(context, tensor)) {
        const at = (section: Section) => section.offset + (section.length / rows) * row
        await writeAll(file, blocks.codes, at(sections.codes))
        await writeAll(file, blocks.scales, at(sections.scales))
        if (form.offsets) await writeAll(file, blocks.offsets, at(sections.offsets))
        row += blocks.rows
      }
    }
  })
  return { form, rows, columns, path, ...sections }
}

/** Whole rows of a tensor, some at a time. */
async function* unpackedRows({ payloads, signal }: DerivedContext, tensor: StoredTensor) {
  const type = ggmlTypeByName(tensor.dtype)!
  const expected = storedBytes(tensor.dtype, elementCount(tensor.shape))
  if (expected !== tensor.bytes) {
    throw new DomainError(
      'SHAPE_MISMATCH',
      `tensor ${tensor.name}: ${tensor.bytes} bytes, expected ${expected} for ${tensor.dtype} [${tensor.shape}]`,
    )
  }
  const columns = tensor.shape[1]!
  const rowBytes = (columns / type.blockSize) * type.blockBytes
  const rowsPerStep = Math.max(1, Math.floor(stepElements / columns))
  const pending = new Uint8Array(Math.min(rowsPerStep, tensor.shape[0]!) * rowBytes)
  let filled = 0
  const unpack = () => {
    const rows = filled / rowBytes
    filled = 0
    return { rows, ...unpackBlocks(tensor.dtype, pending, rows * columns, type) }
  }
  for await (const chunk of payloads.open(tensor.payload)) {
    signal?.throwIfAborted()
    for (let at = 0; at < chunk.length; ) {
      const take = Math.min(chunk.length - at, pending.length - filled)
      pending.set(chunk.subarray(at, at + take), filled)
      filled += take
      at += take
      if (filled === pending.length) yield unpack()
    }
  }
  if (filled > 0) yield unpack()
}
