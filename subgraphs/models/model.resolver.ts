// Queries and mutations of models, and their fields that need a read of their own.
import { Arg, Args, Ctx, FieldResolver, ID, Mutation, Query, Resolver, Root } from 'type-graphql'
import { parseGlobalId } from '../../lib/ids.js'
import { ConnectionArguments, type Page, paginateArray } from '../build/connection.js'
import { loader } from '../build/loader.js'
import { withUserErrors } from '../build/payload.js'
import type { RequestContext } from '../build/platform.js'
import { BigIntScalar } from '../build/schema.js'
import {
  DeleteModelInput,
  DeleteModelPayload,
  ExportModelInput,
  ExportModelPayload,
  IngestModelInput,
  IngestModelPayload,
  ModelsArguments,
  TensorsArguments,
} from './model.inputs.js'
import { eventRows, manifests, modelRows, studentRows, tensorsOfModel, uniqueByteCounts } from './model.loaders.js'
import { exportModel, ingestModel, listModels, listTensors, removeModel } from './model.service.js'
import {
  jobReference,
  Model,
  ModelConnection,
  ModelEvent,
  Tokenizer,
  toModel,
  toModelEvent,
  toTokenizer,
} from './model.type.js'
import { Layer, type Tensor, TensorConnection, toLayers, toTensor } from './tensor.type.js'

@Resolver(() => Model)
export class ModelResolver {
  @Query(() => Model, { nullable: true, description: 'A model by its id; null where there is none or it was deleted.' })
  async model(
    @Arg('id', () => ID, { description: 'Global id of the model.' }) id: string,
    @Ctx() context: RequestContext,
  ) {
    const parsed = parseGlobalId(id)
    if (parsed?.type !== 'Model') return null
    const row = await modelRows(context).load(parsed.id)
    return row && !row.deletedAt ? toModel(row) : null
  }

  @Query(() => ModelConnection, { description: 'Models that are not deleted, newest first.' })
  async models(
    @Args(() => ModelsArguments) args: ModelsArguments,
    @Ctx() context: RequestContext,
  ): Promise<Page<Model>> {
    return (await listModels(context, args)).map(toModel)
  }

  @FieldResolver(() => BigIntScalar, {
    description: 'Bytes of those tensors that no other model holds: what deleting it would free.',
  })
  async uniqueBytes(@Root() model: Model, @Ctx() context: RequestContext) {
    return (await uniqueByteCounts(context).load(model.row.id)) ?? 0
  }

  @FieldResolver(() => Model, {
    nullable: true,
    description: 'The model it was built from, deleted or not; null for ingested models.',
  })
  async parent(@Root() model: Model, @Ctx() context: RequestContext) {
    const row = model.row.parentModelId && (await modelRows(context).load(model.row.parentModelId))
    return row ? toModel(row) : null
  }

  @FieldResolver(() => ModelConnection, { description: 'Models built from it that are not deleted, newest first.' })
  async students(
    @Root() model: Model,
    @Args(() => ConnectionArguments) args: ConnectionArguments,
    @Ctx() context: RequestContext,
  ): Promise<Page<Model>> {
    const rows = (await studentRows(context).load(model.row.id)) ?? []
    return paginateArray(rows, args, `students ${model.row.id}`, r => r.id).map(toModel)
  }

  @FieldResolver(() => [Layer], {
    description: 'Its transformer layers in order; empty where the architecture is unknown.',
  })
  async layers(@Root() model: Model, @Ctx() context: RequestContext): Promise<Layer[]> {
    return toLayers((await tensorsOfModel(context).load(model.row.id)) ?? [])
  }

  @FieldResolver(() => TensorConnection, { description: 'Its tensors in the order of the manifest.' })
  async tensors(
    @Root() model: Model,
    @Args(() => TensorsArguments) args: TensorsArguments,
    @Ctx() context: RequestContext,
  ): Promise<Page<Tensor>> {
    const pages = loader(context, `models.tensors ${JSON.stringify(args)}`, (ids: readonly string[]) =>
      listTensors(context, ids, args),
    )
    return (await pages.load(model.row.id))!.map(toTensor)
  }

  @FieldResolver(() => Tokenizer, {
    nullable: true,
    description: 'How it turns text into token ids; null where the source had no tokenizer, or after deletion.',
  })
  async tokenizer(@Root() model: Model, @Ctx() context: RequestContext) {
    const manifest = model.row.deletedAt ? undefined : await manifests(context).load(model.row.manifestHash)
    return manifest?.tokenizer ? toTokenizer(manifest.tokenizer) : null
  }

  @FieldResolver(() => String, {
    nullable: true,
    description: 'Jinja template that joins chat messages into a prompt; null where the source had none.',
  })
  async chatTemplate(@Root() model: Model, @Ctx() context: RequestContext) {
    const manifest = model.row.deletedAt ? undefined : await manifests(context).load(model.row.manifestHash)
    return manifest?.chatTemplate ?? null
  }

  @FieldResolver(() => [ModelEvent], { description: 'What happened to it, oldest first.' })
  async history(@Root() model: Model, @Ctx() context: RequestContext) {
    return ((await eventRows(context).load(model.row.id)) ?? []).map(toModelEvent)
  }

  @Mutation(() => IngestModelPayload, {
    description:
      'Takes a model apart into tensors and stores those that are new. The job’s `model` is set when it has succeeded.',
  })
  ingestModel(
    @Arg('input', () => IngestModelInput, { description: 'What to ingest.' }) input: IngestModelInput,
    @Ctx() context: RequestContext,
  ) {
    return withUserErrors<IngestModelPayload>(async () => {
      const { jobId, model } = await ingestModel(context, input)
      return { job: jobReference(jobId), model: model && toModel(model) }
    })
  }

  @Mutation(() => ExportModelPayload, { description: 'Writes a model’s files below /exports, for download.' })
  exportModel(
    @Arg('input', () => ExportModelInput, { description: 'Which model, which format.' }) input: ExportModelInput,
    @Ctx() context: RequestContext,
  ) {
    return withUserErrors<ExportModelPayload>(async () => ({ job: jobReference(await exportModel(context, input)) }))
  }

  @Mutation(() => DeleteModelPayload, {
    description:
      'Deletes a model. Its row stays for lineage; bytes that no other model holds go with the next collectGarbage. Deleting twice changes nothing.',
  })
  deleteModel(
    @Arg('input', () => DeleteModelInput, { description: 'Which model.' }) input: DeleteModelInput,
    @Ctx() context: RequestContext,
  ) {
    return withUserErrors<DeleteModelPayload>(async () => ({
      model: toModel(await removeModel(context, input.modelId)),
    }))
  }
}
