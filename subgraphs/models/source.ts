// Where a model may be ingested from: the checks that need no I/O, and the name a source suggests.
import { basename, dirname } from 'node:path'
import type { Env } from '../../lib/env.js'
import { DomainError } from '../../lib/errors.js'

/** Longest source text; paths and addresses beyond it are mistakes. */
const maximumSourceLength = 4096
const field = ['input', 'source']

/** Name without what every model file's name has: `model.safetensors` of a folder is named after the folder. */
function nameOfPath(path: string): string {
  const file = basename(path).replace(/(\.safetensors\.index\.json|\.safetensors|\.gguf)$/i, '')
  const generic = file === '' || /^(model|pytorch_model)(-\d{5}-of-\d{5})?$/i.test(file)
  return generic ? basename(dirname(path)) || file : file
}

/**
 * Checks a source's form and finds the name it suggests: a path, `file:`, `https:` or `hf:owner/name[@revision]`.
 * @throws BAD_USER_INPUT (form), SOURCE_REFUSED (scheme)
 */
export function checkSource(source: string, env: Pick<Env, 'HARTONOMOUS_ALLOW_PRIVATE_SOURCES'>): { name: string } {
  const refuse = (message: string) => new DomainError('BAD_USER_INPUT', message, { field })
  if (source.trim() === '') throw refuse('source: empty; give a path, file:, https: or hf:owner/name')
  if (source.length > maximumSourceLength)
    throw refuse(`source: ${source.length} characters, at most ${maximumSourceLength}`)
  if (source.includes('\0')) throw refuse('source: contains a NUL character')

  // A single letter before the colon is a Windows drive.
  const scheme = /^([a-z][a-z0-9+.-]+):/i.exec(source)?.[1]?.toLowerCase()
  if (scheme === undefined) return { name: clean(nameOfPath(source), source) }
  if (scheme === 'hf') {
    const [, repository, name, file] = /^hf:([\w.-]+\/([\w.-]+))(?:\/([^@/\\]+))?(?:@.+)?$/i.exec(source) ?? []
    if (!repository || !name || repository.includes('..'))
      throw refuse(
        `source: "${source.slice(0, 100)}", expected hf:owner/name, hf:owner/name@revision or hf:owner/name/file`,
      )
    return { name: file ? clean(nameOfPath(`${name}/${file}`), name) : name }
  }
  // Plain http only where private sources are allowed (a mirror in one's own network).
  const schemes = env.HARTONOMOUS_ALLOW_PRIVATE_SOURCES ? ['file', 'https', 'http'] : ['file', 'https']
  if (!schemes.includes(scheme))
    throw new DomainError(
      'SOURCE_REFUSED',
      `source: the scheme "${scheme}:" is not allowed; use a path, file:, https: or hf:`,
      {
        field,
      },
    )
  let url: URL
  try {
    url = new URL(source)
  } catch {
    throw refuse(`source: "${source.slice(0, 100)}" is not an address`)
  }
  if (scheme !== 'file' && (url.username || url.password))
    throw new DomainError('SOURCE_REFUSED', 'source: an address with a user or password is not allowed', { field })
  let path: string
  try {
    path = decodeURIComponent(url.pathname)
  } catch {
    throw refuse(`source: "${source.slice(0, 100)}" is not an address`)
  }
  return { name: clean(nameOfPath(path), url.hostname || source) }
}

/** A name of 1 to 200 characters. */
const clean = (name: string, otherwise: string) => (name.trim() || otherwise).trim().slice(0, 200)
