// Downloads of finished exports: /exports/<job id>/<file>, by range, nothing else.
import { join } from 'node:path'
import send from '@fastify/send'
import type { FastifyReply, FastifyRequest } from 'fastify'

/** Files of a finished export job by their path (`<job id>/<file>`), or undefined where the job is not a finished export. */
export type FinishedExport = (jobId: string) => Promise<readonly { path: string }[] | undefined>

const jobIdPattern = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

/** Route handler: serves only what a finished job has listed, so neither `..` nor a link nor a half-written file is reachable. */
export function exportDownloads(dataFolder: string, finished: FinishedExport) {
  const root = join(dataFolder, 'exports')
  return async (request: FastifyRequest<{ Params: { '*': string } }>, reply: FastifyReply) => {
    const path = request.params['*']
    const jobId = path.slice(0, path.indexOf('/'))
    const file = jobIdPattern.test(jobId) ? (await finished(jobId))?.find(f => f.path === path) : undefined
    if (!file)
      return reply.code(404).send({ errors: [{ message: 'No such export', extensions: { code: 'NOT_FOUND' } }] })
    const encoded = path.split('/').map(encodeURIComponent).join('/')
    const result = await send(request.raw, encoded, {
      root,
      index: false,
      dotfiles: 'deny',
      cacheControl: false,
    })
    if (result.statusCode >= 400 && result.type === 'error' && result.statusCode !== 416)
      return reply
        .code(404)
        .send({ errors: [{ message: 'The export was removed', extensions: { code: 'NOT_FOUND' } }] })
    reply.code(result.statusCode).headers(result.headers)
    reply.headers({
      'content-disposition': 'attachment',
      'x-content-type-options': 'nosniff',
    })
    return reply.send(result.stream)
  }
}
