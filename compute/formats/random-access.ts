// Bytes at a position, from a file or from memory: all that the header parsers ask of a source.
import type { FileHandle } from 'node:fs/promises'
import { DomainError } from '../../lib/errors.js'

export interface RandomAccess {
  /** What error messages call it. */
  name: string
  size: number
  /** Exactly `length` bytes from `position`; callers check against `size` first. */
  read(position: number, length: number): Promise<Uint8Array>
}

/** Reads exactly as many bytes as `target` holds; a file that ends early has been cut while it was read. */
export async function readExactly(file: FileHandle, target: Uint8Array, position: number, name: string) {
  for (let at = 0; at < target.length; ) {
    const { bytesRead } = await file.read(target, at, target.length - at, position + at)
    if (bytesRead === 0) {
      throw new DomainError(
        'SOURCE_INTERRUPTED',
        `${name}: ends at byte ${position + at}, expected ${position + target.length}`,
      )
    }
    at += bytesRead
  }
}

export const fileAccess = (file: FileHandle, size: number, name: string): RandomAccess => ({
  name,
  size,
  async read(position, length) {
    const bytes = Buffer.allocUnsafeSlow(length)
    await readExactly(file, bytes, position, name)
    return bytes
  },
})

export const memoryAccess = (bytes: Uint8Array, name = 'memory'): RandomAccess => ({
  name,
  size: bytes.length,
  read: async (position, length) => bytes.subarray(position, position + length),
})
