// Sources elsewhere: one file over https (with what lies beside it), or a repository of the Hugging Face hub.
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Env } from '../../lib/env.js'
import { DomainError } from '../../lib/errors.js'
import { parseJsonObject } from '../formats/json-scan.js'
import { maximumIndexBytes, parseShardIndex } from '../formats/shard-index.js'
import { auxiliaryNames, chooseFiles, indexName, maximumAuxiliaryBytes } from './choose-files.js'
import { type DownloadOptions, downloadBytes, downloadFile } from './download.js'
import { claimDownloadFolder } from './download-folder.js'
import { checkUrl, makeDispatcher } from './public-addresses.js'

/** What a handler's context offers and sources need. */
export interface SourceContext {
  dataFolder: string
  env: Env
  signal: AbortSignal
  progress(report: { stage: string; completed: number; total?: number; unit: string }): void
}

export interface Downloaded {
  /** The file or folder on this machine. */
  path: string
  /** Removes the download after success (true), or keeps it to be resumed. */
  release(remove: boolean): Promise<void>
}

/** A repository's listing with ten thousand files stays under 4 MB. */
const maximumListingBytes = 16 * 1024 * 1024
const field = ['input', 'source']

/** Downloads files into one folder, counting their bytes together. */
class Downloads {
  private readonly completed = new Map<string, number>()
  private readonly totals = new Map<string, number>()
  constructor(
    private readonly context: SourceContext,
    private readonly folder: string,
    readonly options: DownloadOptions,
    /** Where the listing says how large the files are together. */
    private readonly total?: number,
  ) {}

  private report(name: string, completed: number, total: number | undefined) {
    this.completed.set(name, completed)
    if (total !== undefined) this.totals.set(name, total)
    const sum = (values: Iterable<number>) => [...values].reduce((a, b) => a + b, 0)
    this.context.progress({
      stage: 'download',
      completed: sum(this.completed.values()),
      total: this.total ?? sum(this.totals.values()),
      unit: 'bytes',
    })
  }

  /** A file of the model; all of them together stay within HARTONOMOUS_MAX_SOURCE_BYTES. */
  async file(url: string, name: string, limit = Number.POSITIVE_INFINITY): Promise<string> {
    const others = [...this.completed].reduce((sum, [other, bytes]) => (other === name ? sum : sum + bytes), 0)
    const maximumBytes = Math.min(limit, this.context.env.HARTONOMOUS_MAX_SOURCE_BYTES - others)
    const path = join(this.folder, name)
    await downloadFile(url, path, {
      ...this.options,
      maximumBytes,
      onBytes: (completed, total) => this.report(name, completed, total),
    })
    return path
  }

  /** A small file that may be absent. */
  async optional(url: string, name: string): Promise<void> {
    const bytes = await downloadBytes(url, { ...this.options, maximumBytes: maximumAuxiliaryBytes }, true)
    if (bytes) await writeFile(join(this.folder, name), bytes)
  }
}

/** Claims a folder and connections, and gives both back: the folder only on success or where there is nothing to resume. */
async function withDownloads(
  context: SourceContext,
  address: string,
  token: DownloadOptions['token'],
  work: (folder: string, options: DownloadOptions) => Promise<string>,
): Promise<Downloaded> {
  const allowPrivate = context.env.HARTONOMOUS_ALLOW_PRIVATE_SOURCES
  const folder = await claimDownloadFolder(context.dataFolder, address)
  const dispatcher = makeDispatcher(allowPrivate)
  const { signal } = context
  const maximumBytes = context.env.HARTONOMOUS_MAX_SOURCE_BYTES
  try {
    const onConnect = (completed: number, total: number) =>
      context.progress({ stage: 'connect', completed, total, unit: 'attempts' })
    const contact = { answered: false }
    const options = { dispatcher, allowPrivate, signal, maximumBytes, token, contact, onConnect }
    const path = await work(folder.path, options)
    return { path, release: folder.release }
  } catch (error) {
    // Only an interrupted or cancelled download is worth going on with.
    const resumable = signal.aborted || (error instanceof DomainError && error.code === 'SOURCE_INTERRUPTED')
    await folder.release(!resumable)
    throw error
  } finally {
    await dispatcher.destroy()
  }
}

/** Last part of a URL's path as a plain file name. */
function fileName(url: URL): string {
  const name = decodeURIComponent(url.pathname.split('/').at(-1) ?? '')
  if (/^[^./\\\0][^/\\\0]{0,200}$/.test(name)) return name
  throw new DomainError('SOURCE_REFUSED', `${url.href.slice(0, 200)}: the address ends in no file name`, { field })
}

/** A single file as it is, for sources that are no models. */
export async function downloadSingle(
  address: string,
  context: SourceContext,
  maximumBytes: number,
): Promise<Downloaded> {
  const url = checkUrl(address, context.env.HARTONOMOUS_ALLOW_PRIVATE_SOURCES)
  const name = fileName(url)
  return await withDownloads(context, url.href, undefined, async (folder, options) => {
    return await new Downloads(context, folder, options).file(url.href, name, maximumBytes)
  })
}

/** A .gguf or .safetensors file or a SafeTensors index, with shards and configuration from beside it. */
export async function downloadUrl(address: string, context: SourceContext): Promise<Downloaded> {
  const url = checkUrl(address, context.env.HARTONOMOUS_ALLOW_PRIVATE_SOURCES)
  const name = fileName(url)
  const isIndex = name.endsWith('.safetensors.index.json')
  if (!isIndex && !/\.(gguf|safetensors)$/i.test(name)) {
    throw new DomainError(
      'UNSUPPORTED_FORMAT',
      `${name}: expected a .safetensors or .gguf file or a .safetensors.index.json`,
      { field },
    )
  }
  const beside = (other: string) => {
    const sibling = new URL(url)
    sibling.pathname = sibling.pathname.replace(/[^/]*$/, encodeURIComponent(other))
    sibling.hash = ''
    return sibling.href
  }
  return await withDownloads(context, url.href, undefined, async (folder, options) => {
    const downloads = new Downloads(context, folder, options)
    if (/\.gguf$/i.test(name)) return await downloads.file(url.href, name)
    for (const auxiliary of auxiliaryNames) await downloads.optional(beside(auxiliary), auxiliary)
    const path = await downloads.file(url.href, name, isIndex ? maximumIndexBytes : undefined)
    if (isIndex)
      for (const shard of parseShardIndex(await readFile(path), name).files) await downloads.file(beside(shard), shard)
    return path
  })
}

interface HubReference {
  repository: string
  /** One file of the repository, where the source names one. */
  file?: string
  revision: string
}

/** `hf:owner/name[/file][@revision]` */
export function parseHubReference(source: string, revision: string | undefined): HubReference {
  const match = /^hf:([\w.-]+\/[\w.-]+)(?:\/([^@/\\]+))?(?:@(.+))?$/i.exec(source)
  const [, repository, file, stated] = match ?? []
  if (!repository || repository.includes('..')) {
    throw new DomainError('BAD_USER_INPUT', `${source.slice(0, 200)}: expected hf:owner/name[@revision]`, { field })
  }
  if (revision && stated && revision !== stated) {
    throw new DomainError('BAD_USER_INPUT', `The source names revision ${stated}, the input ${revision}`, {
      field: ['input', 'revision'],
    })
  }
  return { repository, file, revision: revision ?? stated ?? 'main' }
}

/** The files of a hub repository that make up its model. */
export async function downloadHub(
  source: string,
  revision: string | undefined,
  context: SourceContext,
): Promise<Downloaded> {
  const { HARTONOMOUS_HF_ENDPOINT, HARTONOMOUS_ALLOW_PRIVATE_SOURCES, HF_TOKEN } = context.env
  const reference = parseHubReference(source, revision)
  const endpoint = checkUrl(HARTONOMOUS_HF_ENDPOINT, HARTONOMOUS_ALLOW_PRIVATE_SOURCES)
  const token = HF_TOKEN ? { origin: endpoint.origin, value: HF_TOKEN } : undefined
  const base = endpoint.href.replace(/\/$/, '')
  const address = `${base} ${reference.repository} ${reference.file ?? ''} ${reference.revision}`
  return await withDownloads(context, address, token, async (folder, options) => {
    const listing = await listRepository(base, reference, options)
    const sizes = new Map(listing.files.map(f => [f.name, f.size]))
    const chosen = chooseFiles(
      reference.file === undefined ? [...sizes.keys()] : only([...sizes.keys()], reference.file, source),
      `hf:${reference.repository}`,
    )
    const urlOf = (name: string) =>
      `${base}/${reference.repository}/resolve/${encodeURIComponent(listing.commit)}/${encodeURIComponent(name)}`
    let weights = chosen.weights
    if (chosen.index) {
      const index = await downloadBytes(urlOf(chosen.index), { ...options, maximumBytes: maximumIndexBytes })
      if (!index) throw new DomainError('SOURCE_NOT_FOUND', `${source}: ${indexName} is gone`, { field })
      await writeFile(join(folder, chosen.index), index)
      weights = parseShardIndex(index, chosen.index).files
    }
    const total = weights.reduce<number | undefined>((sum, name) => {
      const size = sizes.get(name)
      return sum === undefined || size === undefined ? undefined : sum + size
    }, 0)
    const limit = context.env.HARTONOMOUS_MAX_SOURCE_BYTES
    if (total !== undefined && total > limit) {
      throw new DomainError(
        'SOURCE_REFUSED',
        `${source}: ${total} bytes, HARTONOMOUS_MAX_SOURCE_BYTES allows ${limit}`,
        { field },
      )
    }
    for (const name of chosen.auxiliary) await new Downloads(context, folder, options).optional(urlOf(name), name)
    const downloads = new Downloads(context, folder, options, total)
    for (const name of weights) await downloads.file(urlOf(name), name)
    return reference.file === undefined ? folder : join(folder, reference.file)
  })
}

/** The named weight file with the auxiliary files beside it. */
function only(names: string[], file: string, source: string): string[] {
  if (!names.includes(file))
    throw new DomainError('SOURCE_NOT_FOUND', `${source}: the repository has no file ${file}`, { field })
  return [file, ...names.filter(name => (auxiliaryNames as readonly string[]).includes(name))]
}

async function listRepository(base: string, { repository, revision }: HubReference, options: DownloadOptions) {
  const url = `${base}/api/models/${repository}/revision/${encodeURIComponent(revision)}?blobs=true`
  const bytes = await downloadBytes(url, { ...options, maximumBytes: maximumListingBytes })
  const { siblings, sha } = parseJsonObject(bytes ?? new Uint8Array(), `hf:${repository} listing`)
  const files: { name: string; size: number | undefined }[] = []
  for (const sibling of Array.isArray(siblings) ? siblings : []) {
    const { rfilename: name, size } = (sibling ?? {}) as Record<string, unknown>
    // Files in sub-folders are other forms of the same weights (ONNX, original checkpoints).
    if (typeof name !== 'string' || !/^[^./\\\0][^/\\\0]{0,200}$/.test(name)) continue
    files.push({ name, size: typeof size === 'number' && Number.isSafeInteger(size) && size >= 0 ? size : undefined })
  }
  // Pinned to the commit, so that a push in the middle cannot mix two states.
  return { files, commit: typeof sha === 'string' && /^[0-9a-f]{7,64}$/.test(sha) ? sha : revision }
}
