// Which queries a piece of work costs, as TypeORM logs them.
import type { EntityManager } from 'typeorm'

/** SQL of every query that goes through the manager's connection while `work` runs. */
export async function queriesOf(em: EntityManager, work: () => Promise<unknown>): Promise<string[]> {
  const { logger } = em.connection
  const original = logger.logQuery
  const queries: string[] = []
  logger.logQuery = sql => void queries.push(sql)
  try {
    await work()
  } finally {
    logger.logQuery = original
  }
  return queries
}
