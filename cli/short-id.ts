// Ids as people read them: the last eight characters, which every command takes for the whole.
import { parseGlobalId } from '../lib/ids.js'

/** The end of an id, which differs from thing to thing. */
export const shortId = (id: string): string => parseGlobalId(id)?.id.slice(-8) ?? id

/** An id as tables show it. */
export const idCell = (session: { ids: boolean }, id: string): string => (session.ids ? id : shortId(id))

/** The ids within a sentence as tables show them: servers name things by whole ids, or by the row id inside. Paths stay as they are. */
export const shortIds = (text: string): string =>
  text
    .replaceAll(/[\w-]{40,}/g, id => shortId(id))
    .replaceAll(/(?<![\w/-])[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{4}([0-9a-f]{8})(?![\w/-])/g, '$1')
