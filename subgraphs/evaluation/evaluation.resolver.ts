// Queries, fields and the mutation of evaluations.
import { Arg, Args, Ctx, FieldResolver, ID, Mutation, Query, Resolver, Root } from 'type-graphql'
import { fromGlobalId } from '../../lib/ids.js'
import { ConnectionArguments } from '../build/connection.js'
import { withUserErrors } from '../build/payload.js'
import type { RequestContext } from '../build/platform.js'
import { capabilityIdBySlug, evaluateModel, listEvaluations } from './evaluation.service.js'
import { EvaluateModelInput, EvaluateModelPayload, Evaluation, EvaluationConnection } from './evaluation.type.js'
import {
  Capability,
  capabilityReference,
  Job,
  jobReference,
  Model,
  modelReference,
  ProbeDataset,
  probeDatasetReference,
} from './references.js'

@Resolver(() => Evaluation)
export class EvaluationResolver {
  @Query(() => EvaluationConnection, { description: 'All measurements of a model, newest first.' })
  evaluations(
    @Arg('modelId', () => ID, { description: 'The model.' }) modelId: string,
    @Args(() => ConnectionArguments) args: ConnectionArguments,
    @Ctx() context: RequestContext,
  ) {
    return listEvaluations(context, fromGlobalId('Model', modelId, ['modelId']), args)
  }

  @Mutation(() => EvaluateModelPayload, {
    description: 'Measures a model on a probe set, a student beside its parent, or the teacher that its recipe names.',
  })
  evaluateModel(
    @Arg('input', () => EvaluateModelInput, { description: 'Model and probe set.' }) input: EvaluateModelInput,
    @Ctx() context: RequestContext,
  ): Promise<EvaluateModelPayload> {
    return withUserErrors<EvaluateModelPayload>(async () => ({
      job: jobReference(await evaluateModel(context, input)),
    }))
  }

  @FieldResolver(() => Model, { description: 'The model that was measured.' })
  model(@Root() { row }: Evaluation): Model {
    return modelReference(row.modelId)
  }

  @FieldResolver(() => ProbeDataset, { description: 'The probe set it was measured on.' })
  probeDataset(@Root() { row }: Evaluation): ProbeDataset {
    return probeDatasetReference(row.probeDatasetId)
  }

  @FieldResolver(() => Capability, { description: 'The capability.' })
  async capability(@Root() { row }: Evaluation, @Ctx() context: RequestContext): Promise<Capability> {
    const id = await capabilityIdBySlug(context).load(row.slug)
    if (!id) throw new Error(`No capability row has the slug "${row.slug}"`)
    return capabilityReference(id)
  }

  @FieldResolver(() => Job, { nullable: true, description: 'The job that measured it.' })
  job(@Root() { row }: Evaluation): Job | null {
    return row.jobId === null ? null : jobReference(row.jobId)
  }
}

@Resolver(() => Model)
export class ModelResolver {
  @FieldResolver(() => EvaluationConnection, { description: 'All measurements of the model, newest first.' })
  evaluations(
    @Root() model: Model,
    @Args(() => ConnectionArguments) args: ConnectionArguments,
    @Ctx() context: RequestContext,
  ) {
    return listEvaluations(context, fromGlobalId('Model', model.id), args)
  }
}
