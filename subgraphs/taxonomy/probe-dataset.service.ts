// Probe sets as rows: a new version only where the content changed; imports run as jobs.
import type { EntityManager } from 'typeorm'
import { z } from 'zod'
import { Job, ProbeDataset as ProbeDatasetRow, ProbeSampleCount } from '../../db/entities/index.js'
import { anyOf, defaultTenantId, scoped } from '../../db/scope.js'
import { DomainError } from '../../lib/errors.js'
import { newId } from '../../lib/ids.js'
import { checkText } from '../build/check-text.js'
import { enqueue } from '../build/enqueue.js'
import { idempotent } from '../build/idempotency.js'
import { groupBy, loader } from '../build/loader.js'
import type { JobEffect, Platform, RequestContext } from '../build/platform.js'
import { builtInProbeDataset } from '../build/probe-dataset.js'
import { readBuiltInProbes, type SampleCount } from './built-in-probes.js'
import { type ProbeDataset, toProbeDataset } from './probe-dataset.type.js'
import { type CapabilityNode, ensureCapabilities, parentSlug } from './taxonomy.service.js'

export interface StoredProbeSet {
  tenantId: string
  name: string
  /** Payload of the JSONL. */
  hash: string
  counts: readonly SampleCount[]
  /** Texts for capabilities where they are known. */
  capabilities?: readonly CapabilityNode[]
}

/** Writes a probe set with its capabilities; the newest version of that name with the same content is returned as it is. */
export async function storeProbeDataset(em: EntityManager, set: StoredProbeSet): Promise<ProbeDatasetRow> {
  const { tenantId, name, hash, counts } = set
  await ensureCapabilities(em, tenantId, [...(set.capabilities ?? []), ...counts.map(({ slug }) => ({ slug }))])
  const newest = await em.findOne(ProbeDatasetRow, {
    where: { ...scoped(tenantId), name },
    order: { version: 'DESC' },
  })
  if (newest?.probeSetHash === hash) return newest
  const row: ProbeDatasetRow = {
    id: newId(),
    tenantId,
    name,
    version: (newest?.version ?? 0) + 1,
    probeSetHash: hash,
    sampleCount: counts.reduce((sum, c) => sum + c.probe + c.validation, 0),
    createdAt: new Date(),
  }
  await em.insert(ProbeDatasetRow, row)
  const rows = counts.map(({ slug, probe, validation }) => ({
    id: newId(),
    tenantId,
    probeDatasetId: row.id,
    slug,
    probeCount: probe,
    validationCount: validation,
  }))
  // SQL Server takes at most 2,100 parameters per statement.
  for (let i = 0; i < rows.length; i += 300) await em.insert(ProbeSampleCount, rows.slice(i, i + 300))
  return row
}

/** Loads the product's own probe set; run at every start, it changes something only where the files did. */
export async function loadBuiltInProbes(platform: Platform): Promise<void> {
  const { capabilities, jsonl, counts } = await readBuiltInProbes()
  const { hash } = await platform.payloads.put([Buffer.from(jsonl)])
  const row = await platform.db.tx(em =>
    storeProbeDataset(em, { tenantId: defaultTenantId, name: builtInProbeDataset, hash, counts, capabilities }),
  )
  platform.log.debug({ version: row.version, samples: row.sampleCount }, 'built-in probe set')
}

const importContext = z.object({ name: z.string(), probeDatasetId: z.string().optional() })

export interface ImportProbeDataset {
  name: string
  source: string
  idempotencyKey?: string | null
}

/**
 * Queues the import of a JSONL probe set; returns the row ids of job and, where an earlier call with the same key is done, of the set.
 * @throws BAD_USER_INPUT where name or source is empty, or the name is the product's own
 */
export async function importProbeDataset(context: RequestContext, input: ImportProbeDataset) {
  const { platform, tenantId } = context
  const name = checkText(input.name, 200, 'name') ?? ''
  const source = checkText(input.source, 4096, 'source') ?? ''
  const refuse = (field: string, message: string) => {
    throw new DomainError('BAD_USER_INPUT', `${field}: ${message}`, { field: ['input', field] })
  }
  if (name.length < 1) refuse('name', 'is empty; expected 1 to 200 characters')
  if (name === builtInProbeDataset) refuse('name', `"${builtInProbeDataset}" is the product's own probe set`)
  if (source.length < 1) refuse('source', 'is empty; expected a path, file: or https: address')
  return platform.db.tx(async em => {
    const { jobId } = await idempotent(em, tenantId, 'importProbeDataset', input.idempotencyKey, input, async () => {
      const job = await enqueue(em, platform, { tenantId, type: 'probes.import', input: { source }, context: { name } })
      return { jobId: job.id }
    })
    const job = await em.findOneBy(Job, { ...scoped(tenantId), id: jobId })
    return { jobId, probeDatasetId: importContext.safeParse(job?.context).data?.probeDatasetId ?? null }
  })
}

export const probesImportEffect: JobEffect<'probes.import'> = {
  async succeeded(em, job, output) {
    const { name } = importContext.parse(job.context)
    const counts = output.capabilities.map(({ capability, subtask, probe, validation }) => ({
      slug: `${capability}/${subtask}`,
      probe,
      validation,
    }))
    const row = await storeProbeDataset(em, { tenantId: job.tenantId, name, hash: output.probeSet, counts })
    await em.update(Job, { ...scoped(job.tenantId), id: job.id }, { context: { name, probeDatasetId: row.id } })
  },
}

export const probeDatasetById = (context: RequestContext) =>
  loader<string, ProbeDataset>(context, 'taxonomy.probeDatasetById', async ids => {
    const rows = await context.platform.db.read.findBy(ProbeDatasetRow, { ...scoped(context.tenantId), id: anyOf(ids) })
    return new Map(rows.map(r => [r.id, toProbeDataset(r)]))
  })

/** The set that an import job wrote. */
export const probeDatasetIdOfJob = (context: RequestContext) =>
  loader<string, string>(context, 'taxonomy.probeDatasetIdOfJob', async ids => {
    const rows = await context.platform.db.read.find(Job, {
      select: { id: true, context: true },
      where: { ...scoped(context.tenantId), id: anyOf(ids), type: 'probes.import' },
    })
    return new Map(
      rows.flatMap(r => {
        const { probeDatasetId } = importContext.safeParse(r.context).data ?? {}
        return probeDatasetId ? [[r.id, probeDatasetId] as const] : []
      }),
    )
  })

export const sampleCountsOf = (context: RequestContext) =>
  loader<string, ProbeSampleCount[]>(context, 'taxonomy.sampleCounts', async ids => {
    const rows = await context.platform.db.read.find(ProbeSampleCount, {
      where: { ...scoped(context.tenantId), probeDatasetId: anyOf(ids) },
      order: { id: 'ASC' },
    })
    return groupBy(rows, r => r.probeDatasetId)
  })

/** Every version of every probe set, newest first. */
export async function listProbeDatasets(context: RequestContext): Promise<ProbeDataset[]> {
  const rows = await context.platform.db.read.find(ProbeDatasetRow, {
    where: scoped(context.tenantId),
    order: { id: 'DESC' },
  })
  return rows.map(toProbeDataset)
}

/** Pairs per capability in the newest version of every probe set, sub-capabilities included. */
export const probeSampleCountOf = (context: RequestContext) =>
  loader<string, number>(context, 'taxonomy.probeSampleCount', async slugs => {
    const newest = new Map((await listProbeDatasets(context)).reverse().map(set => [set.name, set.rowId]))
    const rows = await context.platform.db.read.findBy(ProbeSampleCount, {
      ...scoped(context.tenantId),
      probeDatasetId: anyOf([...newest.values()]),
    })
    const sums = new Map(slugs.map(slug => [slug, 0]))
    for (const { slug, probeCount, validationCount } of rows) {
      for (let at: string | null = slug; at !== null; at = parentSlug(at)) {
        const sum = sums.get(at)
        if (sum !== undefined) sums.set(at, sum + probeCount + validationCount)
      }
    }
    return sums
  })

/** The newest version of every probe set that has pairs for a capability or its sub-capabilities, by slug. */
export const probeDatasetsOf = (context: RequestContext) =>
  loader<string, ProbeDataset[]>(context, 'taxonomy.probeDatasetsOf', async slugs => {
    const newest = new Map((await listProbeDatasets(context)).reverse().map(set => [set.name, set]))
    const sets = new Map([...newest.values()].map(set => [set.rowId, set]))
    const rows = await context.platform.db.read.findBy(ProbeSampleCount, {
      ...scoped(context.tenantId),
      probeDatasetId: anyOf([...sets.keys()]),
    })
    const found = new Map(slugs.map(slug => [slug, new Set<ProbeDataset>()]))
    for (const { slug, probeDatasetId } of rows)
      for (let at: string | null = slug; at !== null; at = parentSlug(at)) found.get(at)?.add(sets.get(probeDatasetId)!)
    return new Map([...found].map(([slug, own]) => [slug, [...own]]))
  })
