// Entities of other subgraphs as this one sees them: their key, and the fields it adds. Their owners describe them.
import { Directive, Field, ID, ObjectType } from 'type-graphql'
import { toGlobalId } from '../../lib/ids.js'

@Directive('@key(fields: "id")')
@ObjectType()
export class Model {
  @Field(() => ID, { description: 'Opaque global id; unique over all types.' })
  id!: string
}

@Directive('@key(fields: "id")')
@ObjectType()
export class Job {
  @Field(() => ID, { description: 'Opaque global id; unique over all types.' })
  id!: string
}

@Directive('@key(fields: "id", resolvable: false)')
@ObjectType()
export class Capability {
  @Field(() => ID, { description: 'Opaque global id; unique over all types.' })
  id!: string
}

export const modelReference = (rowId: string) => Object.assign(new Model(), { id: toGlobalId('Model', rowId) })
export const jobReference = (rowId: string) => Object.assign(new Job(), { id: toGlobalId('Job', rowId) })
export const capabilityReference = (rowId: string) =>
  Object.assign(new Capability(), { id: toGlobalId('Capability', rowId) })
