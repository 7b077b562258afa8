// Saves the files of a finished export, each checked against its SHA-256.
import { createHash } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { mkdir, rename, rm } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { ReadableStream } from 'node:stream/web'
import { PlatformError } from '../lib/client/platform-client.js'

export interface ExportedFile {
  /** `<job id>/<file>` */
  path: string
  /** Path on the server, `/exports/…`. */
  url: string
  sizeBytes: number
  sha256: string
  savedAs?: string | undefined
}

/**
 * @param server address of the platform
 * @returns the paths written, in the order of `files`; a file appears under its name only when it is whole
 * @throws PlatformError where the server refuses a file or its bytes are not those that were exported
 */
export async function downloadFiles(server: string, files: readonly ExportedFile[], folder: string): Promise<string[]> {
  await mkdir(folder, { recursive: true })
  const saved: string[] = []
  for (const { path, url, sha256 } of files) {
    const target = resolve(join(folder, basename(path)))
    const partial = `${target}.part`
    const response = await fetch(`${server}${url}`)
    if (!response.ok || !response.body)
      throw new PlatformError(`${server}${url} answered ${response.status}`, 'NOT_FOUND')
    const hash = createHash('sha256')
    const hashed = async function* (chunks: AsyncIterable<Uint8Array>) {
      for await (const chunk of chunks) {
        hash.update(chunk)
        yield chunk
      }
    }
    try {
      await pipeline(Readable.fromWeb(response.body as ReadableStream), hashed, createWriteStream(partial))
      const found = hash.digest('hex')
      if (found !== sha256)
        throw new PlatformError(
          `${basename(path)}: came with SHA-256 ${found}, exported was ${sha256}`,
          'PAYLOAD_CORRUPT',
        )
      await rename(partial, target)
    } catch (error) {
      await rm(partial, { force: true })
      throw error
    }
    saved.push(target)
  }
  return saved
}
