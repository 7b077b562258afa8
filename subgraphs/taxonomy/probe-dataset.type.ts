// Probe sets: the prompt/completion pairs that capabilities are measured on.
import { Directive, Field, Int, ObjectType } from 'type-graphql'
import type { ProbeDataset as ProbeDatasetRow } from '../../db/entities/index.js'
import { toGlobalId } from '../../lib/ids.js'
import { Node } from '../build/common-types.js'
import { Capability } from './capability.type.js'

@Directive('@key(fields: "id")')
@ObjectType({
  implements: Node,
  description:
    'A set of prompt/completion pairs, stored once by its hash. Importing other content under a name makes a new version.',
})
export class ProbeDataset extends Node {
  @Field(() => String, { description: 'Name; "hartonomous" is the one that comes with the product.' })
  name!: string
  @Field(() => Int, { description: 'Counts up from 1 with every change of content under this name.' })
  version!: number
  @Field(() => Int, { description: 'Pairs in both splits.' })
  sampleCount!: number
  @Field(() => String, { description: 'SHA-256 of the stored JSONL, in hexadecimal.' })
  hash!: string
  @Field(() => Date, { description: 'When this version was stored.' })
  createdAt!: Date
  /** Row id, for the resolvers. */
  rowId!: string
}

@ObjectType({ description: 'How many pairs a probe set has for a sub-capability.' })
export class ProbeSampleCount {
  @Field(() => Int, { description: 'Pairs in the split PROBE.' })
  probe!: number
  @Field(() => Int, { description: 'Pairs in the split VALIDATION.' })
  validation!: number
  @Field(() => Capability, { description: 'The sub-capability they show.' })
  capability!: Capability
}

export const toProbeDataset = (row: ProbeDatasetRow): ProbeDataset =>
  Object.assign(new ProbeDataset(), {
    id: toGlobalId('ProbeDataset', row.id),
    name: row.name,
    version: row.version,
    sampleCount: row.sampleCount,
    hash: row.probeSetHash,
    createdAt: row.createdAt,
    rowId: row.id,
  })
