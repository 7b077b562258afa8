// Queries, fields and the import of probe sets.
import { Arg, Ctx, Field, FieldResolver, InputType, Mutation, ObjectType, Query, Resolver, Root } from 'type-graphql'
import { UserError } from '../build/common-types.js'
import { withUserErrors } from '../build/payload.js'
import type { RequestContext } from '../build/platform.js'
import { Capability } from './capability.type.js'
import { importProbeDataset, listProbeDatasets, probeDatasetById, sampleCountsOf } from './probe-dataset.service.js'
import { ProbeDataset, ProbeSampleCount } from './probe-dataset.type.js'
import { Job, jobReference } from './references.js'
import { capabilityBySlug, capabilityOfSlug } from './taxonomy.service.js'

@InputType({ description: 'A probe set to import.' })
export class ImportProbeDatasetInput {
  @Field(() => String, {
    description: 'Name, 1 to 200 characters. Other content under a known name becomes its next version.',
  })
  name!: string
  @Field(() => String, {
    description:
      'Path, `file:` or `https:` address of a JSONL file: one object per line with task, subtask, prompt, completion and optionally split (`probe` or `validation`; assigned by a hash of the prompt where absent), or with text, which is cut into passages. A file that ends in .txt or .md is such a text. Or a folder of such files (READMEs are left out); files called probe or validation are of that split. A text is of one split as a whole; where it is the only one, its last quarter is held out.',
  })
  source!: string
  @Field(() => String, { nullable: true, description: 'Same key and input: same job. 1 to 200 characters.' })
  idempotencyKey?: string | null
}

@ObjectType({ description: 'What came of the import.' })
export class ImportProbeDatasetPayload {
  @Field(() => ProbeDataset, {
    nullable: true,
    description: 'The imported set; null until the job is done (then also at `job.probeDataset`).',
  })
  probeDataset?: ProbeDataset | null
  @Field(() => Job, { nullable: true, description: 'The job that reads and stores the set.' })
  job?: Job | null
  @Field(() => [UserError], { description: 'Why nothing was queued; empty otherwise.' })
  userErrors!: UserError[]
}

@Resolver(() => ProbeDataset)
export class ProbeDatasetResolver {
  @Query(() => [ProbeDataset], { description: 'Every version of every probe set, newest first.' })
  probeDatasets(@Ctx() context: RequestContext) {
    return listProbeDatasets(context)
  }

  @FieldResolver(() => [Capability], { description: 'The top-level capabilities it shows.' })
  async capabilities(@Root() set: ProbeDataset, @Ctx() context: RequestContext) {
    const counts = (await sampleCountsOf(context).load(set.rowId)) ?? []
    const top = [...new Set(counts.map(({ slug }) => slug.split('/')[0]!))]
    const found = await Promise.all(top.map(slug => capabilityBySlug(context).load(slug)))
    return found.filter(capability => capability !== undefined)
  }

  @FieldResolver(() => [ProbeSampleCount], { description: 'How many pairs it has for each sub-capability.' })
  async samples(@Root() set: ProbeDataset, @Ctx() context: RequestContext) {
    const counts = (await sampleCountsOf(context).load(set.rowId)) ?? []
    return Promise.all(
      counts.map(async ({ slug, probeCount, validationCount }) => ({
        probe: probeCount,
        validation: validationCount,
        capability: await capabilityOfSlug(context, slug),
      })),
    )
  }

  @Mutation(() => ImportProbeDatasetPayload, {
    description: 'Imports a probe set of your own; its tasks and subtasks become capabilities.',
  })
  importProbeDataset(
    @Arg('input', () => ImportProbeDatasetInput, { description: 'Name and source.' }) input: ImportProbeDatasetInput,
    @Ctx() context: RequestContext,
  ): Promise<ImportProbeDatasetPayload> {
    return withUserErrors<ImportProbeDatasetPayload>(async () => {
      const { jobId, probeDatasetId } = await importProbeDataset(context, input)
      const probeDataset = probeDatasetId ? await probeDatasetById(context).load(probeDatasetId) : null
      return { job: jobReference(jobId), probeDataset: probeDataset ?? null }
    })
  }
}
