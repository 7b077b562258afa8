// Downloads of finished exports: /exports/<job id>/<file>, whole or by range, with their SHA-256; nothing else.
import type { IncomingMessage } from 'node:http'
import { join } from 'node:path'
import send from '@fastify/send'
import type { FastifyReply, FastifyRequest } from 'fastify'

/** Files of a finished export job by their path (`<job id>/<file>`), or undefined where the job is not a finished export. */
export type FinishedExport = (jobId: string) => Promise<readonly { path: string; sha256: string }[] | undefined>

const jobIdPattern = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

/** The request as `send` reads it, `If-Range` answered here: the range stands where it names this content, and goes where it does not. */
function withoutValidators({ method, headers }: IncomingMessage, etag: string): IncomingMessage {
  const { 'if-range': ifRange, 'if-none-match': _known, 'if-modified-since': _since, range, ...rest } = headers
  const asked = range !== undefined && (ifRange === undefined || ifRange === etag)
  return { method, headers: { ...rest, ...(asked ? { range } : {}) } } as IncomingMessage
}

/** Route handler: serves only what a finished job has listed, so neither `..` nor a link nor a half-written file is reachable. */
export function exportDownloads(dataFolder: string, finished: FinishedExport) {
  const root = join(dataFolder, 'exports')
  return async (request: FastifyRequest<{ Params: { '*': string } }>, reply: FastifyReply) => {
    const path = request.params['*']
    const jobId = path.slice(0, path.indexOf('/'))
    const file = jobIdPattern.test(jobId) ? (await finished(jobId))?.find(f => f.path === path) : undefined
    if (!file)
      return reply.code(404).send({ errors: [{ message: 'No such export', extensions: { code: 'NOT_FOUND' } }] })
    // The content's own hash: equal for equal bytes, whichever job wrote them, so that a download goes on where another one broke off.
    const etag = `"${file.sha256}"`
    const digest = Buffer.from(file.sha256, 'hex').toString('base64')
    reply.headers({ etag, 'repr-digest': `sha-256=:${digest}:` })
    if (request.headers['if-none-match'] === etag) return reply.code(304).send()
    const encoded = path.split('/').map(encodeURIComponent).join('/')
    const result = await send(withoutValidators(request.raw, etag), encoded, {
      root,
      etag: false,
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
