// `/pictures/models/<global id or name>/<picture>.svg`: what is known of a model, drawn from the newest data at the time of the request.
import { createHash } from 'node:crypto'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { parseGlobalId } from '../../lib/ids.js'
import { headsPicture } from './heads-picture.js'
import { layersPicture } from './layers-picture.js'
import { mapPicture } from './map-picture.js'
import {
  findModelNamed,
  findPictureAnalysis,
  findPictureHeads,
  findPictureRecipes,
  type Query,
  type RunQuery,
} from './picture-data.js'
import { type Picture, renderSvg } from './render-svg.js'
import { studentsPicture } from './students-picture.js'

type Draw = (run: Query, id: string) => Promise<Picture | null | undefined>

/** A picture from data that may lack: no model stays undefined, nothing to draw null. */
const drawn =
  <T>(find: (run: Query, id: string) => Promise<T | null | undefined>, draw: (data: T) => Picture): Draw =>
  async (run, id) => {
    const data = await find(run, id)
    return data == null ? (data as null | undefined) : draw(data)
  }

export const pictures: Record<string, { draw: Draw; missing: string }> = {
  layers: {
    draw: drawn(findPictureAnalysis, layersPicture),
    missing: 'This model has not been analysed: run analyzeModel (hartonomous analyze) first',
  },
  map: {
    draw: drawn(findPictureAnalysis, mapPicture),
    missing: 'This model has not been analysed: run analyzeModel (hartonomous analyze) first',
  },
  heads: {
    draw: drawn(findPictureHeads, headsPicture),
    missing: 'The heads of this model have not been measured: run analyzeModel (hartonomous analyze) first',
  },
  students: {
    draw: drawn(findPictureRecipes, studentsPicture),
    missing: 'This model has no recipe with a quality: run proposeStudents (hartonomous propose) first',
  },
}

const refuse = (reply: FastifyReply, message: string) =>
  reply
    .code(404)
    .header('cache-control', 'no-store')
    .send({ errors: [{ message, extensions: { code: 'NOT_FOUND' } }] })

/** A global id as it is; of any other text the newest model of that name. */
const idOf = async (run: Query, reference: string) =>
  parseGlobalId(reference)?.type === 'Model' ? reference : findModelNamed(run, reference)

/** @returns the handler of `/pictures/models/:id/:file` */
export function pictureRoutes(run: RunQuery, goneSignal: (reply: FastifyReply) => AbortSignal) {
  return async (request: FastifyRequest<{ Params: { id: string; file: string } }>, reply: FastifyReply) => {
    const { id: reference, file } = request.params
    const name = file.endsWith('.svg') ? file.slice(0, -4) : ''
    if (!Object.hasOwn(pictures, name))
      return refuse(reply, `The pictures of a model are ${Object.keys(pictures).join('.svg, ')}.svg`)
    const { draw, missing } = pictures[name]!
    const signal = goneSignal(reply)
    const query: Query = (text, variables) => run(text, variables, signal)
    const id = await idOf(query, reference)
    const picture = id === undefined ? undefined : await draw(query, id)
    if (picture === undefined)
      return refuse(
        reply,
        `No Model has the id or the name "${reference.slice(0, 80)}"; models { nodes { id name } } lists them (hartonomous models --ids)`,
      )
    if (picture === null) return refuse(reply, missing)
    const svg = await renderSvg(picture)
    const etag = `"${createHash('sha256').update(svg).digest('base64url').slice(0, 32)}"`
    reply.headers({
      etag,
      // A new analysis changes it: kept, but asked about each time.
      'cache-control': 'private, no-cache',
      'content-security-policy': "default-src 'none'; style-src 'unsafe-inline'; sandbox",
      'x-content-type-options': 'nosniff',
    })
    const known = request.headers['if-none-match']?.split(',').map(t => t.trim().replace(/^W\//, ''))
    if (known?.includes(etag)) return reply.code(304).send()
    return reply.type('image/svg+xml; charset=utf-8').send(svg)
  }
}
