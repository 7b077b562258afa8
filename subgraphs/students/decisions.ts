// Who decided about a recipe and why, as rows that are only ever added.
import type { EntityManager } from 'typeorm'
import { type DecisionOutcome, type PolicyCheckValue, RecipeDecision } from '../../db/entities/index.js'
import { anyOf, scoped } from '../../db/scope.js'
import { newId } from '../../lib/ids.js'
import { groupBy, loader } from '../build/loader.js'
import type { RequestContext } from '../build/platform.js'

export type Decider = { person: string | null } | { policyVersion: number; checks: PolicyCheckValue[] }

/** Within the transaction that changes the recipe. */
export async function recordDecision(
  em: EntityManager,
  recipe: { id: string; tenantId: string },
  outcome: DecisionOutcome,
  reason: string,
  decider: Decider,
): Promise<void> {
  const byPolicy = 'policyVersion' in decider
  await em.insert(RecipeDecision, {
    id: newId(),
    tenantId: recipe.tenantId,
    recipeId: recipe.id,
    outcome,
    decidedBy: byPolicy ? 'POLICY' : 'PERSON',
    person: byPolicy ? null : decider.person,
    policyVersion: byPolicy ? decider.policyVersion : null,
    reason,
    checks: byPolicy ? decider.checks : null,
    createdAt: new Date(),
  })
}

/** Decisions by recipe, oldest first; of many recipes in one query. */
export const decisionsOfRecipe = (context: RequestContext) =>
  loader<string, RecipeDecision[]>(context, 'students.decisionsOfRecipe', async recipeIds => {
    const rows = await context.platform.db.read.find(RecipeDecision, {
      where: { ...scoped(context.tenantId), recipeId: anyOf(recipeIds) },
      order: { id: 'ASC' },
    })
    return groupBy(rows, row => row.recipeId)
  })
