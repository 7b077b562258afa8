// How fast a quantised student will decode, from how fast the last ones did here.
import { type EntityManager, In } from 'typeorm'
import { jobTypes, type ModelComparison } from '../../compute/pool/job-types.js'
import { Job } from '../../db/entities/index.js'
import { scoped } from '../../db/scope.js'

/** Jobs looked through for one that measured a speed. */
const recentJobs = 20

type Speed = Pick<ModelComparison, 'sizeBytes' | 'tokensPerSecond'>

function measuredBy({ type, output }: Pick<Job, 'type' | 'output'>): Speed | undefined {
  if (type === 'model.quantize') return jobTypes['model.quantize'].output.safeParse(output).data?.comparison
  const stages = jobTypes['student.build'].output.safeParse(output).data?.stages
  return stages?.findLast(({ stage }) => stage === 'quantise')?.measurements as Speed | undefined
}

/**
 * Tokens per second of one stream: the bytes per second that the newest model quantised here was decoded at, over the student's bytes.
 * Null where nothing was measured.
 */
export async function codesSpeed(em: EntityManager, tenantId: string, bytes: number): Promise<number | null> {
  const jobs = await em.find(Job, {
    select: { id: true, type: true, output: true },
    where: { ...scoped(tenantId), type: In(['model.quantize', 'student.build']), state: 'SUCCEEDED' },
    order: { id: 'DESC' },
    take: recentJobs,
  })
  for (const job of jobs) {
    const found = measuredBy(job)
    if (found?.tokensPerSecond) return (found.tokensPerSecond * found.sizeBytes) / bytes
  }
  return null
}
