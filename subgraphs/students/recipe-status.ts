// The states of a recipe as one table: which action leads from which status to which, and the sentence for what is not allowed.
import type { RecipeStatus } from '../../db/entities/student.entities.js'
import { DomainError } from '../../lib/errors.js'

/** `approve`, `reject` and `build` are asked for by people or the policy; the others are what becomes of the build job. */
export type RecipeAction = 'approve' | 'reject' | 'build' | 'start' | 'built' | 'failed' | 'cancelled'

/**
 * A BUILT recipe is APPROVED again when its student is deleted (db/models.ts). A failed build can be approved anew; a rejected recipe stays rejected (write another).
 * A build also starts from FAILED and APPROVED: its job, having failed or been cancelled, can be retried by itself.
 */
export const recipeTransitions: { [A in RecipeAction]: { from: readonly RecipeStatus[]; to: RecipeStatus } } = {
  approve: { from: ['PROPOSED', 'FAILED'], to: 'APPROVED' },
  reject: { from: ['PROPOSED', 'APPROVED', 'FAILED'], to: 'REJECTED' },
  build: { from: ['APPROVED'], to: 'BUILDING' },
  start: { from: ['BUILDING', 'FAILED', 'APPROVED'], to: 'BUILDING' },
  built: { from: ['BUILDING'], to: 'BUILT' },
  failed: { from: ['BUILDING'], to: 'FAILED' },
  cancelled: { from: ['BUILDING'], to: 'APPROVED' },
}

const wishes: { [A in RecipeAction]: string } = {
  approve: 'be approved',
  reject: 'be rejected',
  build: 'be built',
  start: 'be built',
  built: 'be marked as built',
  failed: 'be marked as failed',
  cancelled: 'go back to approved',
}

const hints: Partial<Record<`${RecipeAction} ${RecipeStatus}`, string>> = {
  'build PROPOSED': 'approve it first',
  'build FAILED': 'its last build failed; approve it again to build it once more',
  'build BUILDING': 'its build is under way',
  'build BUILT': 'its student exists already; delete that to build it anew',
  'build REJECTED': 'write or propose another',
  'approve APPROVED': 'it can be built now',
  'approve REJECTED': 'write or propose another',
  'reject BUILDING': 'cancel its build job first',
  'reject BUILT': 'delete its student instead',
}

export const allows = (status: RecipeStatus, action: RecipeAction): boolean =>
  recipeTransitions[action].from.includes(status)

/**
 * The status after `action`.
 * @throws CONFLICT with a sentence that names the recipe, its status and the statuses that would allow it
 */
export function nextStatus(
  recipe: { name: string; status: RecipeStatus },
  action: RecipeAction,
  field = ['input', 'recipeId'],
): RecipeStatus {
  const { from, to } = recipeTransitions[action]
  if (from.includes(recipe.status)) return to
  const hint = hints[`${action} ${recipe.status}`]
  throw new DomainError(
    'CONFLICT',
    `Recipe "${recipe.name}" is ${recipe.status} and cannot ${wishes[action]}: only ${from.join(' or ')} allows it${hint ? ` (${hint})` : ''}`,
    { field },
  )
}
