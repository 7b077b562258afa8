// Identifiers: time-ordered UUIDs inside, opaque global ids outside (base64url of `Type:uuid`).
import { v7, validate } from 'uuid'
import { DomainError } from './errors.js'

/** Every type that implements Node. */
export const nodeTypes = [
  'Model',
  'Tensor',
  'Job',
  'Device',
  'Capability',
  'ProbeDataset',
  'Recipe',
  'Deployment',
  'Conversation',
  'ABTest',
] as const
export type NodeType = (typeof nodeTypes)[number]

/** A new time-ordered UUID (version 7): sorting by id is sorting by creation. */
export const newId = (): string => v7()

export const toGlobalId = (type: NodeType, id: string): string => Buffer.from(`${type}:${id}`).toString('base64url')

/** The type and row id behind a global id, or undefined where the text is not one of ours. */
export function parseGlobalId(globalId: string): { type: NodeType; id: string } | undefined {
  const text = Buffer.from(globalId, 'base64url').toString('utf8')
  const colon = text.indexOf(':')
  const type = nodeTypes.find(t => t === text.slice(0, colon))
  const id = text.slice(colon + 1)
  return type && (validate(id) || type === 'Device') && toGlobalId(type, id) === globalId ? { type, id } : undefined
}

/** Row id behind a global id of the expected type; anything else is NOT_FOUND, as an unknown id is. */
export function fromGlobalId(type: NodeType, globalId: string, field: string[] = ['id']): string {
  const parsed = parseGlobalId(globalId)
  if (parsed?.type !== type)
    throw new DomainError('NOT_FOUND', `No ${type} has the id "${globalId.slice(0, 80)}"`, { field })
  return parsed.id
}
