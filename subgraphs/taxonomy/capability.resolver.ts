// Queries and fields of the taxonomy.
import { Arg, Args, Ctx, FieldResolver, Int, Query, Resolver, Root } from 'type-graphql'
import { ConnectionArguments } from '../build/connection.js'
import type { RequestContext } from '../build/platform.js'
import { Capability } from './capability.type.js'
import { probeSampleCountOf } from './probe-dataset.service.js'
import { ModelConnection } from './stubs.js'
import { studentsOf } from './students.service.js'
import { capabilityById, capabilityBySlug, capabilityChildren, listCapabilities } from './taxonomy.service.js'

@Resolver(() => Capability)
export class CapabilityResolver {
  @Query(() => [Capability], { description: 'The taxonomy as a list, in the order in which probe sets brought it.' })
  capabilities(
    @Arg('level', () => Int, { nullable: true, description: 'Only this depth: 0 top level, 1 sub-capabilities.' })
    level: number | null | undefined,
    @Ctx() context: RequestContext,
  ) {
    return listCapabilities(context, level)
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

  @FieldResolver(() => [Capability], { description: 'Its sub-capabilities.' })
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
