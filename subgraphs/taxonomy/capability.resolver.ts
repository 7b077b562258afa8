// Queries and fields of the taxonomy.
import { Arg, Args, Ctx, FieldResolver, Int, Query, Resolver, Root } from 'type-graphql'
import { ConnectionArguments } from '../build/connection.js'
import type { RequestContext } from '../build/platform.js'
import { modelScoresOf } from './analysis.service.js'
import { ModelCapabilityScore } from './analysis.type.js'
import { Capability, type CapabilityStatus, CapabilityStatusEnum } from './capability.type.js'
import { probeDatasetsOf, probeSampleCountOf } from './probe-dataset.service.js'
import { ProbeDataset } from './probe-dataset.type.js'
import { Model, ModelConnection, modelReference } from './references.js'
import { studentsOf } from './students.service.js'
import { capabilityById, capabilityBySlug, capabilityChildren, listCapabilities } from './taxonomy.service.js'

@Resolver(() => Capability)
export class CapabilityResolver {
  @Query(() => [Capability], {
    description: 'The taxonomy as a list, in the order in which probe sets and analyses brought it.',
  })
  capabilities(
    @Arg('level', () => Int, {
      nullable: true,
      description: 'Only this depth: 0 top level, 1 sub-capabilities, 2 parts of them.',
    })
    level: number | null | undefined,
    @Arg('status', () => CapabilityStatusEnum, {
      nullable: true,
      description: 'Only these; default: ESTABLISHED and PROPOSED ones.',
    })
    status: CapabilityStatus | null | undefined,
    @Ctx() context: RequestContext,
  ) {
    return listCapabilities(context, level, status)
  }

  @Query(() => Capability, { nullable: true, description: 'One capability; null where no probe set brought it.' })
  async capability(
    @Arg('slug', () => String, { description: 'E.g. `code_generation` or `code_generation/sql`.' }) slug: string,
    @Ctx() context: RequestContext,
  ) {
    return (await capabilityBySlug(context).load(slug)) ?? null
  }

  @FieldResolver(() => Capability, { nullable: true, description: 'The capability it is a part of; null at the top.' })
  async parent(@Root() capability: Capability, @Ctx() context: RequestContext) {
    return capability.parentRowId === null ? null : await capabilityById(context).load(capability.parentRowId)
  }

  @FieldResolver(() => Capability, {
    nullable: true,
    description: 'What a person said it really is; null where it was not merged.',
  })
  async mergedInto(@Root() { mergedIntoRowId }: Capability, @Ctx() context: RequestContext) {
    return mergedIntoRowId === null ? null : await capabilityById(context).load(mergedIntoRowId)
  }

  @FieldResolver(() => Model, {
    nullable: true,
    description: 'The model whose analysis showed it last, where an analysis found it; null otherwise.',
  })
  discoveredIn(@Root() { discoveredInRowId }: Capability): Model | null {
    return discoveredInRowId === null ? null : modelReference(discoveredInRowId)
  }

  @FieldResolver(() => [ModelCapabilityScore], {
    description: 'The newest measurement of every model that was measured on it, the least loss of each split first.',
  })
  async scores(@Root() capability: Capability, @Ctx() context: RequestContext): Promise<ModelCapabilityScore[]> {
    return (await modelScoresOf(context).load(capability.slug)) ?? []
  }

  @FieldResolver(() => [ProbeDataset], { description: 'The newest version of every probe set that has pairs for it.' })
  async probeDatasets(@Root() capability: Capability, @Ctx() context: RequestContext): Promise<ProbeDataset[]> {
    return (await probeDatasetsOf(context).load(capability.slug)) ?? []
  }

  @FieldResolver(() => [Capability], { description: 'Its sub-capabilities, proposed ones included.' })
  async children(@Root() capability: Capability, @Ctx() context: RequestContext) {
    return (await capabilityChildren(context).load(capability.rowId)) ?? []
  }

  @FieldResolver(() => Int, {
    description: 'Pairs that show it in the newest version of every probe set, both splits, sub-capabilities included.',
  })
  async probeSampleCount(@Root() capability: Capability, @Ctx() context: RequestContext) {
    return (await probeSampleCountOf(context).load(capability.slug)) ?? 0
  }

  @FieldResolver(() => ModelConnection, {
    description: 'Students with a known quality on it, nearest to their parent first.',
  })
  students(
    @Root() capability: Capability,
    @Args(() => ConnectionArguments) args: ConnectionArguments,
    @Ctx() context: RequestContext,
  ) {
    return studentsOf(context, capability.rowId, args)
  }
}
