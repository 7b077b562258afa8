// A source that is no model, e.g. a probe set: a path, `file:` or one file over https.
import { stat } from 'node:fs/promises'
import { DomainError } from '../../lib/errors.js'
import { localPath, unknownScheme } from './open-source.js'
import { downloadSingle, type SourceContext } from './remote-source.js'

/**
 * A file (or local folder) that is no model, e.g. a probe set.
 * @param maximumBytes largest download
 * @returns its path here and `done`, which removes a download
 */
export async function openFile(
  source: string,
  context: SourceContext,
  maximumBytes: number,
): Promise<{ path: string; done(): Promise<void> }> {
  const path = localPath(source)
  if (path !== undefined) {
    await stat(path).catch(cause => {
      throw new DomainError('SOURCE_NOT_FOUND', `${path}: does not exist or cannot be read`, {
        field: ['input', 'source'],
        cause,
      })
    })
    return { path, done: async () => {} }
  }
  if (!/^https?:/i.test(source)) throw unknownScheme(source)
  const downloaded = await downloadSingle(source, context, maximumBytes)
  return { path: downloaded.path, done: () => downloaded.release(true) }
}
