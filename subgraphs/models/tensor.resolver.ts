// Fields of tensors that lead to models.
import { Args, Ctx, FieldResolver, Resolver, Root } from 'type-graphql'
import type { ModelAtom } from '../../db/entities/index.js'
import { ConnectionArguments, type Page, paginateArray } from '../build/connection.js'
import type { RequestContext } from '../build/platform.js'
import { holdersOfPayload, modelRows } from './model.loaders.js'
import { Model, ModelConnection, toModel } from './model.type.js'
import { Tensor } from './tensor.type.js'

/** A page of the models that hold a payload, newest first; only the page's models are read. */
export async function pageOfHolders(
  context: RequestContext,
  hash: string,
  args: ConnectionArguments,
  except?: string,
): Promise<Page<Model>> {
  const ids = ((await holdersOfPayload(context).load(hash)) ?? []).filter(id => id !== except)
  const page = paginateArray(ids, args, `holders ${hash}`, id => id)
  const rows = await modelRows(context).loadMany(page.nodes)
  const byId = new Map(rows.filter((r): r is ModelAtom => r !== undefined && !(r instanceof Error)).map(r => [r.id, r]))
  return page.map(id => toModel(byId.get(id)!))
}

@Resolver(() => Tensor)
export class TensorResolver {
  @FieldResolver(() => Model, { description: 'The model it belongs to.' })
  async model(@Root() tensor: Tensor, @Ctx() context: RequestContext) {
    return toModel((await modelRows(context).load(tensor.row.modelId))!)
  }

  @FieldResolver(() => ModelConnection, { description: 'Other models that hold the same bytes, newest first.' })
  sharedWith(
    @Root() tensor: Tensor,
    @Args(() => ConnectionArguments) args: ConnectionArguments,
    @Ctx() context: RequestContext,
  ): Promise<Page<Model>> {
    return pageOfHolders(context, tensor.row.payloadHash, args, tensor.row.modelId)
  }
}
