// Tensors of any source as SafeTensors bytes under Hugging Face names: what the exported model.safetensors holds.
import { DomainError } from '../../lib/errors.js'
import type { Manifest, ManifestTensor } from '../../lib/manifest.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import type { ResolvedDimensions } from '../architectures/architecture.js'
import { checkBuildable, isInputFirst, parseRole, tensorName } from '../architectures/registry.js'
import { dequantize } from '../formats/dequantize.js'
import { elementCount, readFloat32 } from '../formats/float-weights.js'
import { isQuantized } from '../formats/ggml-types.js'

export interface ExportTensor {
  name: string
  dtype: string
  shape: number[]
  bytes: number
  chunks(signal: AbortSignal): AsyncIterable<Uint8Array>
}

/** Names that SafeTensors and ggml share for plain numbers. */
const plainTypes = new Set(['F64', 'F32', 'F16', 'BF16', 'I64', 'I32', 'I16', 'I8'])

/**
 * The tensors in the order in which they are written. HF sources keep names and types; GGUF sources get HF names, quantised ones become
 * float32, and what the converter changed (order of q and k rows, Conv1D turned round, 1 added to norms) goes back to how Hugging Face
 * models have it.
 * @throws DomainError UNSUPPORTED_ARCHITECTURE, UNSUPPORTED_FORMAT naming the tensor
 */
export function exportTensors(manifest: Manifest, payloads: PayloadStore): ExportTensor[] {
  if (manifest.format === 'safetensors') return manifest.tensors.map(t => asStored(t, t.name, payloads))
  const { architecture, dimensions, normOffset } = checkBuildable(manifest)
  const offset = normOffset - (architecture.normOffset?.safetensors ?? 0)
  const tensors: ExportTensor[] = []
  for (const tensor of manifest.tensors) {
    const place =
      tensor.role === undefined ? undefined : architecture.tensors.find(p => p.role === parseRole(tensor.role!).role)
    if (!tensor.role || !place || place.names.safetensors.length === 0) {
      throw new DomainError(
        'UNSUPPORTED_FORMAT',
        `tensor ${tensor.name}: has no place in a Hugging Face ${architecture.name} model`,
      )
    }
    const name = tensorName(manifest.architecture, 'safetensors', tensor.role)
    const permuted = place.rotated === true && dimensions.ropeLayout !== architecture.ropeLayout.safetensors
    const turned = isInputFirst(place, manifest.format) !== isInputFirst(place, 'safetensors')
    const isScale = place.component === 'NORM' && !place.role.endsWith('_bias')
    if (permuted) tensors.push(unpermuted(tensor, name, dimensions, payloads))
    else if (turned) tensors.push(transposed(tensor, name, payloads))
    else if (offset !== 0 && isScale) tensors.push(shifted(tensor, name, offset, payloads))
    else if (isQuantized(tensor.dtype)) tensors.push(asFloat32(tensor, name, payloads))
    else tensors.push(asStored(tensor, name, payloads))
  }
  return tensors
}

function asStored(tensor: ManifestTensor, name: string, payloads: PayloadStore): ExportTensor {
  const { dtype, shape, bytes, payload } = tensor
  return {
    name,
    dtype,
    shape,
    bytes,
    async *chunks(signal) {
      for await (const chunk of payloads.open(payload)) {
        signal.throwIfAborted()
        yield chunk
      }
    },
  }
}

const bytesOf = (values: Float32Array) => new Uint8Array(values.buffer, values.byteOffset, values.byteLength)

const asFloat32 = (tensor: ManifestTensor, name: string, payloads: PayloadStore): ExportTensor => ({
  name,
  dtype: 'F32',
  shape: tensor.shape,
  bytes: elementCount(tensor.shape) * 4,
  async *chunks(signal) {
    for await (const values of readFloat32(payloads, tensor, signal)) yield bytesOf(values)
  },
})

/** [rows, columns] -> [columns, rows]; held in memory whole, which is as large as one linear layer. */
function transposed(tensor: ManifestTensor, name: string, payloads: PayloadStore): ExportTensor {
  const source = isQuantized(tensor.dtype) ? asFloat32(tensor, name, payloads) : asStored(tensor, name, payloads)
  const [rows, columns] = source.shape as [number, number]
  const size = source.bytes / (rows * columns)
  return {
    ...source,
    shape: [columns, rows],
    async *chunks(signal) {
      const stored = new Uint8Array(source.bytes)
      let at = 0
      for await (const chunk of source.chunks(signal)) {
        stored.set(chunk, at)
        at += chunk.length
      }
      const column = new Uint8Array(rows * size)
      for (let c = 0; c < columns; c++) {
        signal.throwIfAborted()
        for (let row = 0; row < rows; row++) {
          const from = (row * columns + c) * size
          column.set(stored.subarray(from, from + size), row * size)
        }
        yield column.slice()
      }
    },
  }
}

/** The values plus a number, in float32. */
function shifted(tensor: ManifestTensor, name: string, offset: number, payloads: PayloadStore): ExportTensor {
  const source = asFloat32(tensor, name, payloads)
  return {
    ...source,
    async *chunks(signal) {
      for await (const values of readFloat32(payloads, tensor, signal)) yield bytesOf(values.map(v => v + offset))
    },
  }
}

/**
 * llama.cpp's converter writes row s * d/2 + i of a head to row 2i + s (`permute` in convert_hf_to_gguf.py); this is its inverse,
 * one head at a time. Blocks of quantised types lie within rows, so that rows can be moved as they are.
 */
function unpermuted(
  tensor: ManifestTensor,
  name: string,
  dimensions: ResolvedDimensions,
  payloads: PayloadStore,
): ExportTensor {
  const rows = tensor.shape[0] ?? 0
  const columns = elementCount(tensor.shape.slice(1))
  const { headSize } = dimensions
  const rowBytes = tensor.bytes / rows
  const float = isQuantized(tensor.dtype)
  if (!plainTypes.has(tensor.dtype) && !float) {
    throw new DomainError('UNSUPPORTED_FORMAT', `tensor ${tensor.name}: type ${tensor.dtype} is not exported`)
  }
  return {
    name,
    dtype: float ? 'F32' : tensor.dtype,
    shape: tensor.shape,
    bytes: float ? rows * columns * 4 : tensor.bytes,
    async *chunks(signal) {
      const stored = new Uint8Array(headSize * rowBytes)
      const turned = new Uint8Array(headSize * rowBytes)
      for (let head = 0; head * headSize < rows; head++) {
        signal.throwIfAborted()
        let at = 0
        for await (const chunk of payloads.open(tensor.payload, head * stored.length, stored.length)) {
          stored.set(chunk, at)
          at += chunk.length
        }
        for (let row = 0; row < headSize; row++) {
          const target = (row % 2) * (headSize / 2) + Math.floor(row / 2)
          turned.set(stored.subarray(row * rowBytes, (row + 1) * rowBytes), target * rowBytes)
        }
        if (!float) {
          yield turned
          continue
        }
        const values = new Float32Array(headSize * columns)
        dequantize(tensor.dtype, turned, values)
        yield bytesOf(values)
      }
    },
  }
}
