// Rows of several matrices after each other as one float32 file: what linear layers of one input are multiplied by at once.
import { createHash } from 'node:crypto'
import {
  type DerivedContext,
  elementCount,
  ensureDerived,
  readFloat32,
  type StoredTensor,
  writeAll,
} from './float-weights.js'

export const joinedBytes = (tensors: readonly StoredTensor[]): number =>
  tensors.reduce((sum, { shape }) => sum + elementCount(shape) * 4, 0)

/**
 * Absolute path of the file, kept in the cache of derived files.
 * @throws what `ensureDerived` and reading the tensors throw
 */
export function ensureJoined(context: DerivedContext, tensors: readonly StoredTensor[]): Promise<string> {
  const [first, ...others] = tensors
  if (!first) throw new Error('no tensors to join')
  const rest = createHash('sha256').update(others.map(t => `${t.payload}.${t.dtype}`).join())
  const form = `${first.dtype}.joined+${rest.digest('hex').slice(0, 32)}`
  return ensureDerived(
    context,
    { payload: first.payload, form, bytes: joinedBytes(tensors), of: first.name },
    async file => {
      for (const tensor of tensors)
        for await (const values of readFloat32(context.payloads, tensor, context.signal)) await writeAll(file, values)
    },
  )
}
