// What a policy decides by and starts by itself, every decision with who made it and why, and what proposals say of size, speed and cost.
import type { MigrationInterface, QueryRunner } from 'typeorm'

const policyColumns = [
  '"version" integer NOT NULL DEFAULT (1)',
  '"capabilities" text',
  '"maximumCostSeconds" real',
  '"analyzeOnIngest" integer NOT NULL DEFAULT (0)',
  '"samplesPerCapability" integer',
  '"proposeOnAnalysis" integer NOT NULL DEFAULT (0)',
  '"budgetSeconds" real',
  '"buildOnApproval" integer NOT NULL DEFAULT (0)',
]
const recipeColumns = [
  '"mixture" text',
  '"estimatedSizeBytes" integer',
  '"estimatedTokensPerSecond" real',
  '"estimatedCostSeconds" real',
  '"validationSamples" integer',
]

export class PolicyDecisions1764300000000 implements MigrationInterface {
  name = 'PolicyDecisions1764300000000'

  async up(runner: QueryRunner) {
    for (const column of policyColumns) await runner.query(`ALTER TABLE "ApprovalPolicies" ADD COLUMN ${column}`)
    for (const column of recipeColumns) await runner.query(`ALTER TABLE "StudentModelRecipes" ADD COLUMN ${column}`)
    await runner.query(`CREATE TABLE "RecipeDecisions" (
      "id" varchar(36) PRIMARY KEY NOT NULL,
      "tenantId" varchar(36) NOT NULL,
      "recipeId" varchar(36) NOT NULL,
      "outcome" varchar(20) NOT NULL,
      "decidedBy" varchar(20) NOT NULL,
      "person" varchar(200),
      "policyVersion" integer,
      "reason" text NOT NULL,
      "checks" text,
      "createdAt" integer NOT NULL,
      CONSTRAINT "FK_7d0bd5d17fc2ab31cb834cf40db" FOREIGN KEY ("recipeId") REFERENCES "StudentModelRecipes" ("id")
    )`)
    await runner.query('CREATE INDEX "IX_RecipeDecisions_Recipe" ON "RecipeDecisions" ("recipeId", "id")')
  }

  async down(runner: QueryRunner) {
    await runner.query('DROP TABLE "RecipeDecisions"')
    const nameOf = (column: string) => column.split(' ')[0]
    for (const column of recipeColumns)
      await runner.query(`ALTER TABLE "StudentModelRecipes" DROP COLUMN ${nameOf(column)}`)
    for (const column of policyColumns)
      await runner.query(`ALTER TABLE "ApprovalPolicies" DROP COLUMN ${nameOf(column)}`)
  }
}
