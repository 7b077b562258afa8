// A capability: what a model can be good at, as a node of the taxonomy.
import { Directive, Field, Int, ObjectType } from 'type-graphql'
import type { StudentModelTaxonomy } from '../../db/entities/index.js'
import { toGlobalId } from '../../lib/ids.js'
import { Node } from '../build/common-types.js'

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
  @Field(() => Int, { description: 'Depth in the tree: 0 top level, 1 sub-capability.' })
  level!: number
  @Field(() => String, { nullable: true, description: 'What it covers; null where its probe set does not say.' })
  description!: string | null
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
    rowId: row.id,
    parentRowId: row.parentTaxonomyId,
  })
