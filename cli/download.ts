// Saves the files of a finished export, each checked against its SHA-256. What a broken connection left is gone on with.
import { createHash, type Hash } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { mkdir, rename, rm, stat } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { ReadableStream } from 'node:stream/web'
import pRetry, { AbortError } from 'p-retry'
import { PlatformError } from '../lib/client/platform-client.js'

export interface ExportedFile {
  /** `<job id>/<file>`, the file perhaps in a folder of its own. */
  path: string
  /** Path on the server, `/exports/…`. */
  url: string
  sizeBytes: number
  sha256: string
  savedAs?: string | undefined
}

/** Attempts to go on with one file within one command; a later command goes on too. */
const retries = 4

const sizeOf = async (path: string) => (await stat(path).catch(() => undefined))?.size ?? 0

/**
 * @param server address of the platform
 * @returns the paths written, in the order of `files`; a file appears under its name only when it is whole and checked. Until then it lies
 * beside under a name with its hash, so that bytes of another content are never gone on with.
 * @throws PlatformError where the server refuses a file or its bytes are not those that were exported
 */
export async function downloadFiles(server: string, files: readonly ExportedFile[], folder: string): Promise<string[]> {
  const saved: string[] = []
  for (const file of files) {
    const target = resolve(join(folder, nameOf(file)))
    await mkdir(dirname(target), { recursive: true })
    const part = `${target}.${file.sha256.slice(0, 16)}.part`
    await pRetry(() => fetchRest(`${server}${file.url}`, file, part), { retries, minTimeout: 200 })
    await rename(part, target)
    saved.push(target)
  }
  return saved
}

/** The path within the export. Throws PlatformError where it would lead out of the folder. */
function nameOf({ path }: ExportedFile): string {
  const name = path.slice(path.indexOf('/') + 1)
  if (name.split(/[\\/]/).includes('..')) throw new PlatformError(`a file called ${name}`, 'BAD_USER_INPUT')
  return name
}

/** Appends what `part` lacks, and checks the whole. */
async function fetchRest(address: string, file: ExportedFile, part: string): Promise<void> {
  const { sizeBytes, sha256 } = file
  const name = nameOf(file)
  const hash = createHash('sha256')
  let have = await sizeOf(part)
  if (have > sizeBytes) have = 0
  if (have > 0) await addFile(hash, part)
  if (have < sizeBytes || sizeBytes === 0) {
    const headers: Record<string, string> = have > 0 ? { range: `bytes=${have}-`, 'if-range': `"${sha256}"` } : {}
    const response = await fetch(address, { headers })
    if (!response.ok || !response.body) {
      const error = new PlatformError(`${address} answered ${response.status}`, 'NOT_FOUND')
      throw response.status < 500 ? new AbortError(error) : error
    }
    // The server has another content, or does not know ranges: all of it comes.
    const goesOn = response.status === 206 && response.headers.get('content-range')?.startsWith(`bytes ${have}-`)
    const whole = goesOn ? hash : createHash('sha256')
    const hashed = async function* (chunks: AsyncIterable<Uint8Array>) {
      for await (const chunk of chunks) {
        whole.update(chunk)
        yield chunk
      }
    }
    const to = createWriteStream(part, { flags: goesOn ? 'a' : 'w' })
    await pipeline(Readable.fromWeb(response.body as ReadableStream), hashed, to)
    return check(whole, name, sha256, part)
  }
  return check(hash, name, sha256, part)
}

async function addFile(hash: Hash, path: string) {
  for await (const chunk of createReadStream(path)) hash.update(chunk)
}

async function check(hash: Hash, name: string, sha256: string, part: string) {
  const found = hash.digest('hex')
  if (found === sha256) return
  await rm(part, { force: true })
  throw new AbortError(
    new PlatformError(`${name}: came with SHA-256 ${found}, exported was ${sha256}`, 'PAYLOAD_CORRUPT'),
  )
}
