// One file over HTTP to a folder: resumed by range, checked against ETag and length, retried when the connection breaks.
import { type FileHandle, open, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import pRetry from 'p-retry'
import { type Dispatcher, request } from 'undici'
import { DomainError, isDomainError } from '../../lib/errors.js'
import { translateWriteError, writeAll } from '../../payloads/file-payload-store.js'
import { checkUrl } from './public-addresses.js'

/** Attempts in a row that may bring no byte before the source counts as stopped. */
const fruitlessAttempts = 4
const firstPauseMilliseconds = 200
const maximumRedirects = 5
/** A host that cannot be found or reached at all is tried again for this long. */
const unreachableMilliseconds = 2000
/** What the system says where there is no such host, or no way to it. */
const unreachableCodes = new Set(['ENOTFOUND', 'EAI_AGAIN', 'ECONNREFUSED', 'ENETUNREACH', 'EHOSTUNREACH'])

export interface DownloadOptions {
  dispatcher: Dispatcher
  allowPrivate: boolean
  signal: AbortSignal
  /** Largest file that is accepted. */
  maximumBytes: number
  /** Sent to `token.origin` only: a redirect to another host does not see it. */
  token?: { origin: string; value: string }
  /** Bytes on disk (resumed ones too) and the file's size where known; falls back when a server starts over. */
  onBytes?(completed: number, total: number | undefined): void
  /** What is known of the source's hosts, shared by all downloads from it. */
  contact?: { answered: boolean }
  /** Called at each attempt (from 1 on) to reach a source that has not answered yet. */
  onConnect?(attempt: number, attempts: number): void
}

/** What a partial file belongs to, kept beside it. */
interface Partial {
  url: string
  validator: string | undefined
  total: number | undefined
}

const field = ['input', 'source']

/** An answer after redirects, each hop checked like the first address. */
async function get(address: string, headers: Record<string, string>, options: DownloadOptions) {
  let url = checkUrl(address, options.allowPrivate)
  for (let hop = 0; hop <= maximumRedirects; hop++) {
    const { token } = options
    const authorization = token && url.origin === token.origin ? { authorization: `Bearer ${token.value}` } : {}
    const response = await request(url, {
      dispatcher: options.dispatcher,
      signal: options.signal,
      headers: { 'user-agent': 'hartonomous', 'accept-encoding': 'identity', ...headers, ...authorization },
    })
    if (options.contact) options.contact.answered = true
    const location = response.headers.location
    if (response.statusCode < 300 || response.statusCode > 399 || typeof location !== 'string')
      return { ...response, url }
    discardBody(response)
    url = checkUrl(location, options.allowPrivate, url)
  }
  throw new DomainError('SOURCE_REFUSED', `${address.slice(0, 200)}: more than ${maximumRedirects} redirects`, {
    field,
  })
}

/** Ends an answer whose body nobody wants, however long it is. */
function discardBody({ body }: { body: Dispatcher.ResponseData['body'] }) {
  body.on('error', () => {}).destroy()
}

type Response = Awaited<ReturnType<typeof get>>

const header = (response: Response, name: string): string | undefined => {
  const value = response.headers[name]
  return Array.isArray(value) ? value[0] : value
}

/** A status that is no success, as an error; server troubles are worth another attempt. */
function refuseStatus(response: Response, address: string): never {
  discardBody(response)
  const status = response.statusCode
  const shown = address.slice(0, 200)
  if (status === 404 || status === 410) throw new DomainError('SOURCE_NOT_FOUND', `${shown}: HTTP ${status}`, { field })
  if (status === 401 || status === 403) {
    throw new DomainError('SOURCE_REFUSED', `${shown}: HTTP ${status} (a gated repository needs HF_TOKEN)`, { field })
  }
  if (status === 408 || status === 425 || status === 429 || status >= 500) throw new Error(`HTTP ${status}`)
  throw new DomainError('SOURCE_NOT_FOUND', `${shown}: HTTP ${status}`, { field })
}

/** Runs attempts until one succeeds; a broken connection is tried again as long as attempts bring bytes. */
async function withRetries<T>(
  address: string,
  { signal, contact, onConnect }: DownloadOptions,
  attempt: () => Promise<T>,
  progressed: () => boolean,
): Promise<T> {
  const started = performance.now()
  const connect = (number: number) => {
    if (!contact?.answered) onConnect?.(number, fruitlessAttempts + 1)
    return attempt()
  }
  /** Before the first answer this is no interruption, and trying the whole job again would only take longer to say so. */
  const unreachable = (error: unknown) => (contact?.answered ? undefined : unreachableCode(error))
  const inVain = (error: unknown) =>
    unreachable(error) !== undefined && performance.now() - started > unreachableMilliseconds
  try {
    return await pRetry(connect, {
      retries: fruitlessAttempts,
      minTimeout: firstPauseMilliseconds,
      maxTimeout: 5000,
      randomize: true,
      signal,
      shouldRetry: ({ error }) => !isDomainError(rootCause(error)) && !signal.aborted && !inVain(error),
      shouldConsumeRetry: () => !progressed(),
    })
  } catch (error) {
    signal.throwIfAborted()
    const cause = rootCause(error)
    if (isDomainError(cause)) throw cause
    const code = unreachable(error)
    if (code) {
      const message = `cannot reach ${new URL(address).host}: ${code} (is this machine connected to the network?)`
      throw new DomainError('SOURCE_NOT_FOUND', message, { field, cause })
    }
    throw new DomainError('SOURCE_INTERRUPTED', `${address.slice(0, 200)}: ${(cause as Error).message}`, {
      retryable: true,
      cause,
    })
  }
}

function unreachableCode(error: unknown): string | undefined {
  for (let at = error; at instanceof Error; at = at.cause) {
    const { code } = at as NodeJS.ErrnoException
    if (code && unreachableCodes.has(code)) return code
  }
  return undefined
}

/** p-retry and undici wrap what a look-up or a write threw. */
function rootCause(error: unknown): unknown {
  for (let at = error; at instanceof Error; at = at.cause) if (isDomainError(at)) return at
  return error
}

/** A small text, e.g. a repository's listing. `undefined` where the server says it does not exist and `optional` is set. */
export async function downloadBytes(
  address: string,
  options: DownloadOptions,
  optional = false,
): Promise<Uint8Array | undefined> {
  const attempt = async () => {
    const response = await get(address, {}, options)
    if (optional && response.statusCode === 404) {
      discardBody(response)
      return undefined
    }
    if (response.statusCode !== 200) return refuseStatus(response, address)
    const chunks: Uint8Array[] = []
    let bytes = 0
    for await (const chunk of response.body) {
      bytes += chunk.length
      if (bytes > options.maximumBytes) throw tooLarge(address, bytes, options.maximumBytes)
      chunks.push(chunk)
    }
    return Buffer.concat(chunks)
  }
  return await withRetries(address, options, attempt, () => false)
}

const tooLarge = (address: string, bytes: number, limit: number) =>
  new DomainError('SOURCE_REFUSED', `${address.slice(0, 200)}: ${bytes} bytes or more, at most ${limit} are allowed`, {
    field,
  })

/**
 * Downloads to `path`; until it is complete it lies beside as `.part`, which a later call goes on with.
 * @throws DomainError SOURCE_NOT_FOUND, SOURCE_REFUSED (address, status, size), SOURCE_INTERRUPTED (retryable), DISK_FULL
 */
export async function downloadFile(address: string, path: string, options: DownloadOptions): Promise<void> {
  if ((await sizeOf(path)) !== undefined) return
  const part = join(dirname(path), `${basename(path)}.part`)
  const note = `${part}.json`
  // Only bytes never had before count: a server that always cuts at the same place must not be asked for ever.
  let furthest = 0
  let before = 0
  const attempt = async () => {
    before = furthest
    await fetchPart(address, part, note, options, at => {
      furthest = Math.max(furthest, at)
    })
  }
  await withRetries(address, options, attempt, () => furthest > before)
  await rename(part, path)
  await rm(note, { force: true })
}

const sizeOf = async (path: string) => (await stat(path).catch(() => undefined))?.size

async function readNote(path: string): Promise<Partial | undefined> {
  try {
    return JSON.parse(await readFile(path, 'utf8'))
  } catch {
    // Absent, or cut by a kill: the download starts over.
    return undefined
  }
}

/** One attempt: appends to the partial file what is missing, or starts it anew where the server's file is another one. */
async function fetchPart(
  address: string,
  part: string,
  note: string,
  options: DownloadOptions,
  onGain: (at: number) => void,
) {
  const known = await readNote(note)
  let have = (await sizeOf(part)) ?? 0
  if (!known || known.url !== address || !known.validator) have = 0
  if (have > 0 && have === known?.total) return
  const range: Record<string, string> =
    have > 0 && known?.validator ? { range: `bytes=${have}-`, 'if-range': known.validator } : {}
  const response = await get(address, range, options)
  const status = response.statusCode
  if (status === 416 && have > 0) {
    // The partial file is longer than the server's: another file under the same address.
    discardBody(response)
    await rm(note, { force: true })
    throw new Error('HTTP 416: the file has changed')
  }
  if (status !== 200 && status !== 206) return refuseStatus(response, address)
  const validator = strongValidator(response)
  let total: number | undefined
  if (status === 206) {
    const match = /^bytes (\d+)-\d+\/(\d+)$/.exec(header(response, 'content-range') ?? '')
    total = match ? Number(match[2]) : undefined
    if (Number(match?.[1]) !== have || (known?.total !== undefined && total !== known.total)) {
      discardBody(response)
      await rm(note, { force: true })
      throw new Error(`asked for bytes from ${have}, got ${header(response, 'content-range')}`)
    }
  } else {
    have = 0
    const length = Number(header(response, 'content-length') ?? Number.NaN)
    total = Number.isSafeInteger(length) ? length : undefined
  }
  if (total !== undefined && total > options.maximumBytes) {
    discardBody(response)
    throw tooLarge(address, total, options.maximumBytes)
  }
  await writeFile(note, JSON.stringify({ url: address, validator, total } satisfies Partial))
  const file = await open(part, 'a')
  try {
    await file.truncate(have)
    await appendBody(response, file, have, total, options, address, onGain)
  } finally {
    await file.close()
  }
}

/** What `If-Range` may carry: a strong ETag, else the date of the last change. */
function strongValidator(response: Response): string | undefined {
  const etag = header(response, 'etag')
  if (etag?.startsWith('"')) return etag
  return header(response, 'last-modified')
}

async function appendBody(
  response: Response,
  file: FileHandle,
  from: number,
  total: number | undefined,
  options: DownloadOptions,
  address: string,
  onGain: (at: number) => void,
) {
  let at = from
  options.onBytes?.(at, total)
  for await (const chunk of response.body as AsyncIterable<Uint8Array>) {
    options.signal.throwIfAborted()
    at += chunk.length
    if (at > options.maximumBytes) throw tooLarge(address, at, options.maximumBytes)
    try {
      await writeAll(file, chunk)
    } catch (error) {
      throw translateWriteError(error, `the download of ${address.slice(0, 200)}`)
    }
    onGain(at)
    options.onBytes?.(at, total)
  }
  if (total !== undefined && at !== total) throw new Error(`the source stopped after ${at} of ${total} bytes`)
}
