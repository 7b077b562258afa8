// Builds in stages: where a job runs is decided job by job, recipes say what is done beyond their layers, tensors which part of a parent's they are.
import type { MigrationInterface, QueryRunner } from 'typeorm'

export class BuildStages1764600000000 implements MigrationInterface {
  name = 'BuildStages1764600000000'

  async up(runner: QueryRunner) {
    await runner.query(`ALTER TABLE "Jobs" ADD COLUMN "lane" varchar(20) NOT NULL DEFAULT ('io')`)
    // Where job types ran before.
    await runner.query(
      `UPDATE "Jobs" SET "lane" = 'device' WHERE "type" IN ('model.evaluate', 'capability.analyze', 'students.propose')`,
    )
    await runner.query(`UPDATE "Jobs" SET "lane" = 'interactive' WHERE "type" = 'model.generate'`)
    await runner.query('ALTER TABLE "StudentModelRecipes" ADD COLUMN "stages" text')
    await runner.query('ALTER TABLE "TensorAtoms" ADD COLUMN "slice" text')
  }

  async down(runner: QueryRunner) {
    await runner.query('ALTER TABLE "TensorAtoms" DROP COLUMN "slice"')
    await runner.query('ALTER TABLE "StudentModelRecipes" DROP COLUMN "stages"')
    await runner.query('ALTER TABLE "Jobs" DROP COLUMN "lane"')
  }
}
