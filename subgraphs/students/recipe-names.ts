// Names that recipes are given where nobody names them.
import type { EntityManager } from 'typeorm'
import { StudentModelRecipe } from '../../db/entities/index.js'
import { scoped } from '../../db/scope.js'

/** Of the recipes for students of this model. */
export async function recipeNames(em: EntityManager, tenantId: string, parentModelId: string): Promise<Set<string>> {
  const rows = await em.find(StudentModelRecipe, {
    select: { id: true, name: true },
    where: { ...scoped(tenantId), parentModelId },
  })
  return new Set(rows.map(({ name }) => name))
}

/** `name`, or with the first number from 2 on that is not among `used`. */
export function unusedName(name: string, used: ReadonlySet<string>): string {
  if (!used.has(name)) return name
  for (let i = 2; ; i++) if (!used.has(`${name}-${i}`)) return `${name}-${i}`
}
