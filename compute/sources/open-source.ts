// A `source` as people write it -> files on this machine: a path or `file:` as they lie, `https:` and `hf:` downloaded first.
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Env } from '../../lib/env.js'
import { DomainError } from '../../lib/errors.js'
import { findLocalModel, type LocalModel } from './local-source.js'

/** What a handler's context offers and sources need. */
export interface SourceContext {
  dataFolder: string
  env: Env
  signal: AbortSignal
  progress(report: { stage: string; completed: number; total?: number; unit: string }): void
}

export interface OpenSource {
  model: LocalModel
  /** Removes what was downloaded: called when all of it is in the store. */
  done(): Promise<void>
}

const refused = (message: string) => new DomainError('SOURCE_REFUSED', message, { field: ['input', 'source'] })

/**
 * Resolves a source and makes its files readable here.
 * @throws DomainError SOURCE_NOT_FOUND, SOURCE_REFUSED (scheme, private address, size), SOURCE_INTERRUPTED, INVALID_MODEL_FILE, UNSUPPORTED_FORMAT
 */
export async function openSource(
  source: string,
  _revision: string | undefined,
  _context: SourceContext,
): Promise<OpenSource> {
  const scheme = /^([a-z][a-z0-9+.-]+):/i.exec(source)?.[1]?.toLowerCase()
  if (scheme === undefined || scheme === 'file') {
    const path = scheme === 'file' ? localPath(source) : resolve(source)
    return { model: await findLocalModel(path), done: async () => {} }
  }
  throw refused(`${scheme}: sources are not read; use a path, file:, https: or hf:owner/name`)
}

function localPath(source: string): string {
  try {
    return fileURLToPath(source)
  } catch (error) {
    throw refused(`${source.slice(0, 200)}: not a file address of this machine (${(error as Error).message})`)
  }
}
