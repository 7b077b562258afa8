// The payload store as people see it: what is stored, what sharing saves, verifying and collecting.
import { Arg, Args, Ctx, FieldResolver, Mutation, Query, Resolver, Root } from 'type-graphql'
import { TensorPayload } from '../../db/entities/index.js'
import { storageTotals } from '../../db/models.js'
import { ConnectionArguments, type Page } from '../build/connection.js'
import { withUserErrors } from '../build/payload.js'
import type { RequestContext } from '../build/platform.js'
import { CollectGarbageInput, CollectGarbagePayload, VerifyStorageInput, VerifyStoragePayload } from './model.inputs.js'
import { holdersOfPayload } from './model.loaders.js'
import { collectGarbage, verifyStorage } from './model.service.js'
import { jobReference, type Model, ModelConnection, StorageReport } from './model.type.js'
import { pageOfHolders } from './tensor.resolver.js'
import { Payload } from './tensor.type.js'

@Resolver(() => Payload)
export class StorageResolver {
  @Query(() => Payload, { nullable: true, description: 'A payload by its hash; null where no tensor refers to it.' })
  async payload(
    @Arg('hash', () => String, { description: 'SHA-256, 64 lower-case hexadecimal digits.' }) hash: string,
    @Ctx() context: RequestContext,
  ): Promise<Payload | null> {
    // Only payloads that a model of this tenant holds.
    if (!(await holdersOfPayload(context).load(hash))) return null
    const row = await context.platform.db.read.findOneBy(TensorPayload, { hash })
    return row && Object.assign(new Payload(), row)
  }

  @FieldResolver(() => ModelConnection, { description: 'Models that hold it, newest first.' })
  models(
    @Root() payload: Payload,
    @Args(() => ConnectionArguments) args: ConnectionArguments,
    @Ctx() context: RequestContext,
  ): Promise<Page<Model>> {
    return pageOfHolders(context, payload.hash, args)
  }

  @Query(() => StorageReport, { description: 'What is stored, and what sharing tensors saves.' })
  async storage(@Ctx() { platform, tenantId }: RequestContext): Promise<StorageReport> {
    const totals = await storageTotals(platform.db.read, tenantId)
    const { logicalBytes, storedBytes } = totals
    return Object.assign(new StorageReport(), {
      ...totals,
      savedBytes: logicalBytes - storedBytes,
      deduplicationRatio: storedBytes > 0 ? logicalBytes / storedBytes : 1,
    })
  }

  @Mutation(() => VerifyStoragePayload, {
    description:
      'Re-hashes every payload, names those whose bytes have changed and sets them aside, and names those that models need and that are gone; ingesting a source again repairs both.',
  })
  verifyStorage(
    @Arg('input', () => VerifyStorageInput, { nullable: true, description: 'Options.' })
    input: VerifyStorageInput | null,
    @Ctx() context: RequestContext,
  ) {
    return withUserErrors<VerifyStoragePayload>(async () => ({
      job: jobReference(await verifyStorage(context, input ?? {})),
    }))
  }

  @Mutation(() => CollectGarbagePayload, {
    description: 'Removes payloads that nothing refers to any more, and exports of deleted models.',
  })
  collectGarbage(
    @Arg('input', () => CollectGarbageInput, { nullable: true, description: 'Options.' })
    input: CollectGarbageInput | null,
    @Ctx() context: RequestContext,
  ) {
    return withUserErrors<CollectGarbagePayload>(async () => ({
      job: jobReference(await collectGarbage(context, input ?? {})),
    }))
  }
}
