// Confidence intervals of measured losses and of proposals' quality.
import type { MigrationInterface, QueryRunner } from 'typeorm'

export class Intervals1764000001000 implements MigrationInterface {
  name = 'Intervals1764000001000'

  async up(runner: QueryRunner) {
    await runner.query('ALTER TABLE "ModelEvaluations" ADD COLUMN "lossInterval" text')
    await runner.query('ALTER TABLE "StudentModelRecipes" ADD COLUMN "estimatedQualityInterval" text')
  }

  async down(runner: QueryRunner) {
    await runner.query('ALTER TABLE "StudentModelRecipes" DROP COLUMN "estimatedQualityInterval"')
    await runner.query('ALTER TABLE "ModelEvaluations" DROP COLUMN "lossInterval"')
  }
}
