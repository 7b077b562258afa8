// Downloads of finished exports: /exports/<job id>/<file>, whole or by range, with their SHA-256; nothing else.
import type { IncomingMessage } from 'node:http'
import { join } from 'node:path'
import send from '@fastify/send'
import type { FastifyReply, FastifyRequest } from 'fastify'

/** Files of a finished export job by their path (`<job id>/<file>`), or undefined where the job is not a finished export. */
export type FinishedExport = (jobId: string) => Promise<readonly { path: string; sha256: string }[] | undefined>

const jobIdPattern = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

/** Whether a list of tags, as `If-Match` has it, names this content. Ours is a strong tag without commas. */
const names = (tags: string, etag: string) => tags.trim() === '*' || tags.split(',').some(tag => tag.trim() === etag)

/**
 * Whether a `Range` follows RFC 9110, 14.1.1: `bytes=` and a list of `2-5`, `2-` and `-5`, none of which ends before it begins.
 * Others are as if they were not there, where `send` would call them unsatisfiable.
 */
const isByteRanges = (range: string) =>
  /^bytes=/.test(range) &&
  range
    .slice('bytes='.length)
    .split(',')
    .every(part => {
      const [, from, to] = /^[ \t]*(\d*)-(\d*)[ \t]*$/.exec(part) ?? []
      return from !== undefined && (from === '' ? to !== '' : to === '' || Number(from) <= Number(to))
    })

/**
 * The request as `send` reads it: ranges are of GET alone (RFC 9110, 14.2). Tags are answered here: the range stands where `If-Range` names this content, and goes where it does not;
 * `If-Unmodified-Since`, which is about the file's time, stays where no `If-Match` outweighs it (RFC 9110, 13.2.2).
 */
function withoutValidators({ method, headers }: IncomingMessage, etag: string): IncomingMessage {
  const { 'if-range': ifRange, 'if-none-match': _known, 'if-modified-since': _since, range, ...others } = headers
  const { 'if-match': ifMatch, 'if-unmodified-since': unmodifiedSince, ...rest } = others
  const ranged = method === 'GET' && range !== undefined && isByteRanges(range)
  const asked = ranged && (ifRange === undefined || ifRange === etag)
  const dated = unmodifiedSince !== undefined && ifMatch === undefined
  const kept = { ...(asked ? { range } : {}), ...(dated ? { 'if-unmodified-since': unmodifiedSince } : {}) }
  return { method, headers: { ...rest, ...kept } } as IncomingMessage
}

/** Answers without content, with a code of the one error table. */
const notFound = (reply: FastifyReply, message: string) =>
  reply.code(404).send({ errors: [{ message, extensions: { code: 'NOT_FOUND' } }] })
const preconditionFailed = (reply: FastifyReply, etag: string, message: string) =>
  reply
    .code(412)
    .headers({ etag })
    .send({ errors: [{ message, extensions: { code: 'CONFLICT' } }] })

/** Handler of GET and HEAD: serves only what a finished job has listed, so neither `..` nor a link nor a half-written file is reachable. */
export function exportDownloads(dataFolder: string, finished: FinishedExport) {
  const root = join(dataFolder, 'exports')
  return async (request: FastifyRequest<{ Params: { '*': string } }>, reply: FastifyReply) => {
    const path = request.params['*']
    const jobId = path.slice(0, path.indexOf('/'))
    const file = jobIdPattern.test(jobId) ? (await finished(jobId))?.find(f => f.path === path) : undefined
    if (!file) return notFound(reply, 'No such export')
    // The content's own hash: equal for equal bytes, whichever job wrote them, so that a download goes on where another one broke off.
    const etag = `"${file.sha256}"`
    const digest = Buffer.from(file.sha256, 'hex').toString('base64')
    const validators = { etag, 'repr-digest': `sha-256=:${digest}:` }
    const { 'if-match': ifMatch, 'if-none-match': known } = request.headers
    if (ifMatch !== undefined && !names(ifMatch, etag))
      return preconditionFailed(reply, etag, `The export is not what If-Match names: its ETag is ${etag}`)
    if (known === etag) return reply.code(304).headers(validators).send()
    const encoded = path.split('/').map(encodeURIComponent).join('/')
    const result = await send(withoutValidators(request.raw, etag), encoded, {
      root,
      etag: false,
      index: false,
      dotfiles: 'deny',
      cacheControl: false,
    })
    if (result.type === 'error' && result.statusCode === 412)
      return preconditionFailed(reply, etag, 'The export was written after the time that If-Unmodified-Since names')
    if (result.type === 'error' && result.statusCode !== 416) return notFound(reply, 'The export was removed')
    reply.code(result.statusCode).headers(validators).headers(result.headers)
    reply.headers({
      'content-disposition': 'attachment',
      'x-content-type-options': 'nosniff',
    })
    return reply.send(result.stream)
  }
}
