// A capability: what a model can be good at, as a node of the taxonomy.
import { Directive, Field, Int, ObjectType } from 'type-graphql'
import type { StudentModelTaxonomy } from '../../db/entities/index.js'
import { toGlobalId } from '../../lib/ids.js'
import { Node, registerValues } from '../build/common-types.js'

export const CapabilityStatusEnum = registerValues('CapabilityStatus', 'Whether people hold it to be a capability.', {
  ESTABLISHED: 'Brought by a probe set, or found by an analysis and given a name by a person.',
  PROPOSED: 'Found by an analysis: samples that a model’s middle layer puts together. Nobody has judged it yet.',
  MERGED: 'Found by an analysis; a person said it is another one: see `mergedInto`.',
  DISMISSED: 'Found by an analysis; a person said it is nothing. It is not proposed again.',
})
export type CapabilityStatus = keyof typeof CapabilityStatusEnum

@Directive('@key(fields: "id")')
@ObjectType({
  implements: Node,
  description:
    'Something a language model can do, shown by prompt/completion pairs. Capabilities form a tree; the built-in probe set brings seven with their sub-capabilities, imported sets add theirs.',
})
export class Capability extends Node {
  @Field(() => String, { description: 'Name for people, e.g. "Code Generation".' })
  name!: string
  @Field(() => String, {
    description: 'Stable name for programs: `code_generation`, sub-capabilities `code_generation/sql`.',
  })
  slug!: string
  @Field(() => Int, { description: 'Depth in the tree: 0 top level, 1 sub-capability, 2 a part of one.' })
  level!: number
  @Field(() => String, { nullable: true, description: 'What it covers; null where its probe set does not say.' })
  description!: string | null
  @Field(() => CapabilityStatusEnum, { description: 'Whether people hold it to be one.' })
  status!: CapabilityStatus
  @Field(() => [String], {
    description:
      'Prompts that show it, shortened to 200 characters, the most typical first; empty where a probe set brought it: its pairs are in the set.',
  })
  examples!: string[]
  /** Model that showed it last and the capability it was merged into, as row ids. */
  discoveredInRowId!: string | null
  mergedIntoRowId!: string | null
  /** Row ids of itself and its parent, for the resolvers. */
  rowId!: string
  parentRowId!: string | null
}

export const toCapability = (row: StudentModelTaxonomy): Capability =>
  Object.assign(new Capability(), {
    id: toGlobalId('Capability', row.id),
    name: row.capabilityName,
    slug: row.slug,
    level: row.capabilityLevel,
    description: row.description,
    status: row.status as CapabilityStatus,
    examples: row.discovery?.examples ?? [],
    discoveredInRowId: row.discovery?.modelId ?? null,
    mergedIntoRowId: row.mergedIntoId,
    rowId: row.id,
    parentRowId: row.parentTaxonomyId,
  })
