// A `source` as people write it -> files on this machine: a path or `file:` as they lie, `https:` and `hf:` downloaded first.
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { DomainError } from '../../lib/errors.js'
import { findLocalModel, type LocalModel } from './local-source.js'
import { type Downloaded, downloadHub, downloadUrl, type SourceContext } from './remote-source.js'

export type { SourceContext }

export interface OpenSource {
  model: LocalModel
  /** Removes a complete download; nothing for local files. */
  close(): Promise<void>
}

const field = ['input', 'source']
const refused = (message: string) => new DomainError('SOURCE_REFUSED', message, { field })

/** Windows drive letters apart, what stands before the first colon. */
const schemeOf = (source: string) => /^([a-z][a-z0-9+.-]+):/i.exec(source)?.[1]?.toLowerCase()

/** The path a source names on this machine; undefined for sources elsewhere. */
export function localPath(source: string): string | undefined {
  const scheme = schemeOf(source)
  if (scheme === undefined) return resolve(source)
  if (scheme !== 'file') return undefined
  try {
    return fileURLToPath(source)
  } catch (error) {
    throw refused(`${source.slice(0, 200)}: not a file address of this machine (${(error as Error).message})`)
  }
}

export const unknownScheme = (source: string) =>
  refused(`${schemeOf(source)}: sources are not read; use a path, file:, https: or hf:owner/name`)

/**
 * Resolves a model's source and makes its files readable here.
 * @throws DomainError SOURCE_NOT_FOUND, SOURCE_REFUSED (scheme, private address, size), SOURCE_INTERRUPTED, INVALID_MODEL_FILE, UNSUPPORTED_FORMAT
 */
export async function openSource(
  source: string,
  revision: string | undefined,
  context: SourceContext,
): Promise<OpenSource> {
  const path = localPath(source)
  if (revision !== undefined && schemeOf(source) !== 'hf') {
    throw new DomainError('BAD_USER_INPUT', 'Only hf: sources have revisions', { field: ['input', 'revision'] })
  }
  if (path !== undefined) return { model: await findLocalModel(path), close: async () => {} }
  let downloaded: Downloaded
  if (schemeOf(source) === 'hf') downloaded = await downloadHub(source, revision, context)
  else if (/^https?:/i.test(source)) downloaded = await downloadUrl(source, context)
  else throw unknownScheme(source)
  try {
    const model = await findLocalModel(downloaded.path)
    return { model, close: () => downloaded.release(true) }
  } catch (error) {
    // What came whole and is no model would be no better the next time.
    await downloaded.release(true)
    throw error
  }
}
