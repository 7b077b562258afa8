// Entities of other subgraphs as this one sees them: their key, and the fields it adds. Their owners describe them.
import { Directive, Field, ID, ObjectType } from 'type-graphql'
import { toGlobalId } from '../../lib/ids.js'
import { connectionOf } from '../build/connection.js'

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

export const ModelConnection = connectionOf('Model', () => Model)

export const modelReference = (rowId: string) => Object.assign(new Model(), { id: toGlobalId('Model', rowId) })
export const jobReference = (rowId: string) => Object.assign(new Job(), { id: toGlobalId('Job', rowId) })
