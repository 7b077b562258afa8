// Entities of other subgraphs as this one sees them: their key, and the fields it adds.
import { Directive, Field, ID, ObjectType } from 'type-graphql'
import { toGlobalId } from '../../lib/ids.js'

@Directive('@key(fields: "id")')
@ObjectType({ description: 'A language model: a manifest over content-addressed tensors.' })
export class Model {
  @Field(() => ID, { description: 'Global id.' })
  id!: string
}

@Directive('@key(fields: "id")')
@ObjectType({ description: 'A piece of work in the compute pool.' })
export class Job {
  @Field(() => ID, { description: 'Global id.' })
  id!: string
}

@Directive('@key(fields: "id", resolvable: false)')
@ObjectType({ description: 'Something a language model can do, shown by prompt/completion pairs.' })
export class Capability {
  @Field(() => ID, { description: 'Global id.' })
  id!: string
}

export const modelStub = (rowId: string) => Object.assign(new Model(), { id: toGlobalId('Model', rowId) })
export const jobStub = (rowId: string) => Object.assign(new Job(), { id: toGlobalId('Job', rowId) })
export const capabilityStub = (rowId: string) =>
  Object.assign(new Capability(), { id: toGlobalId('Capability', rowId) })
