// What this subgraph does when its jobs are claimed and end.

import { type EntityManager, In, IsNull } from 'typeorm'
import { type JobOutput, jobTypes } from '../../compute/pool/job-types.js'
import { Job, ModelAtom, StudentModelRecipe } from '../../db/entities/index.js'
import { addModelEvent, alivePayloads, modelOfManifest, registerModel } from '../../db/models.js'
import { anyOf, scoped } from '../../db/scope.js'
import { quantity } from '../../lib/quantity.js'
import type { JobEffects } from '../build/platform.js'
import { afterIngest } from '../build/policy-steps.js'
import { readManifest } from '../build/read-manifest.js'
import { fuseEffect } from './fuse.service.js'
import type { IngestContext } from './model.service.js'
import { modelFacts } from './model-facts.js'
import { quantizeEffect } from './quantize.service.js'

function describeIngest(
  { tensors, tensorBytes, newTensorBytes = tensorBytes }: JobOutput<'model.ingest'>,
  source: string,
): string {
  const part = newTensorBytes === 0 ? 'none of it' : `${quantity(newTensorBytes, 'bytes')} of it`
  const known = newTensorBytes === tensorBytes ? 'all' : part
  return `${tensors} tensors, ${quantity(tensorBytes, 'bytes')}, ${known} new to the store, from ${source}`
}

/** Ids of finished exports of models that are not deleted, of any tenant. */
async function livingExports(em: EntityManager): Promise<string[]> {
  const jobs = await em
    .createQueryBuilder(Job, 'j')
    .select('j.id', 'id')
    .innerJoin(ModelAtom, 'm', 'm.id = j.modelId AND m.tenantId = j.tenantId')
    .where({ type: 'model.export', state: 'SUCCEEDED' })
    .andWhere('m.deletedAt IS NULL')
    .getRawMany<{ id: string }>()
  return jobs.map(job => job.id)
}

/** Inputs of the builds that wait, run, or failed or were stopped and whose recipe may be built again, of any tenant. */
async function openBuilds(em: EntityManager): Promise<unknown[]> {
  const jobs = await em
    .createQueryBuilder(Job, 'j')
    .innerJoin(StudentModelRecipe, 'r', 'r.jobId = j.id AND r.tenantId = j.tenantId')
    .innerJoin(ModelAtom, 'm', 'm.id = r.parentModelId')
    .where({ type: 'student.build' })
    .andWhere('m.deletedAt IS NULL')
    .andWhere('r.status IN (:...open)', { open: ['BUILDING', 'APPROVED', 'FAILED'] })
    .getMany()
  return jobs.map(job => job.input)
}

/** Manifests within the input of a build: its teacher, and the models other than the parent that layers are of. */
function manifestsOfBuild(job: Pick<Job, 'type' | 'input'>): string[] {
  const { data } = jobTypes['student.build'].input.safeParse(job.type === 'student.build' ? job.input : null)
  return [data?.stages?.healing?.teacher, ...(data?.layers ?? []).map(layer => layer.manifest)].filter(
    hash => hash !== undefined,
  )
}

export const modelEffects: JobEffects = {
  'model.ingest': {
    async succeeded(em, job, output, platform) {
      const { name, version, source } = job.context as IngestContext
      const manifest = await readManifest(platform.payloads, output.manifest)
      // A student that was built here and comes back is a student, of its parent where that is still there.
      const parent = manifest.parent && (await modelOfManifest(em, job.tenantId, manifest.parent.manifest))
      const model = await registerModel(em, {
        tenantId: job.tenantId,
        manifest,
        manifestHash: output.manifest,
        name,
        version,
        source,
        parentModelId: parent?.id ?? null,
        isStudent: manifest.parent !== undefined,
        jobId: job.id,
        description: describeIngest(output, source),
      })
      await em.update(Job, { id: job.id, tenantId: job.tenantId }, { modelId: model.id })
      await afterIngest(em, platform, model)
    },
  },

  'model.export': {
    /** What is measured until then goes into the card; the rows of a model that was deleted meanwhile stay. */
    async claim(em, job, input) {
      const model = job.modelId && (await em.findOneBy(ModelAtom, { ...scoped(job.tenantId), id: job.modelId }))
      return model ? { ...input, facts: await modelFacts(em, model) } : input
    },
    async succeeded(em, job, output) {
      // The output is written after this: it leaves with the addresses that people download from.
      for (const file of output.files) file.url = `/exports/${file.path.split('/').map(encodeURIComponent).join('/')}`
      if (!job.modelId) return
      const { format, quantization } = job.input as { format: string; quantization?: string }
      const bytes = output.files.reduce((sum, f) => sum + f.sizeBytes, 0)
      const description = `${format}${quantization ? ` ${quantization}` : ''}: ${output.files.length} ${output.files.length === 1 ? 'file' : 'files'}, ${quantity(bytes, 'bytes')}`
      await addModelEvent(em, {
        tenantId: job.tenantId,
        modelId: job.modelId,
        kind: 'EXPORTED',
        description,
        jobId: job.id,
      })
    },
  },

  'model.quantize': quantizeEffect,

  'model.fuse': fuseEffect,

  'storage.verify': {
    claim: async em => await alivePayloads(em),
    async succeeded(em, _job, output) {
      if (!output.affected?.length) return
      // The output is written after this: it leaves with the names of the models.
      const manifests = [...new Set(output.affected.map(a => a.manifest).filter(m => m !== undefined))]
      const models = await em.find(ModelAtom, {
        select: { id: true, name: true, manifestHash: true },
        where: { manifestHash: anyOf(manifests), deletedAt: IsNull() },
        order: { id: 'ASC' },
      })
      for (const part of output.affected)
        part.models = models.filter(m => m.manifestHash === part.manifest).map(m => m.name)
    },
  },

  'storage.collect': {
    /** Everything that rows refer to, and what waiting jobs were promised when they were enqueued (their model may be deleted since). */
    async claim(em) {
      const alive = await alivePayloads(em)
      const waiting = await em.find(Job, {
        select: { id: true, type: true, input: true },
        where: { state: In(['QUEUED', 'RUNNING']) },
      })
      const inputs = waiting.map(j => j.input as Record<string, unknown>)
      const named = (...keys: string[]) =>
        inputs.flatMap(input => keys.map(k => input[k])).filter((v): v is string => typeof v === 'string')
      const promised = [...named('manifest', 'parent', 'reference'), ...waiting.flatMap(manifestsOfBuild)]
      return {
        manifests: [...new Set([...alive.manifests, ...promised])],
        builds: await openBuilds(em),
        searches: waiting.filter(j => j.type === 'students.propose').map(j => j.id),
        payloads: [...new Set([...alive.payloads, ...named('probeSet')])],
        exports: await livingExports(em),
      }
    },
  },
}
