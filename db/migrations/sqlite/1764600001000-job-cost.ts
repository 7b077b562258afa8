// What jobs cost: floating-point operations and DCUs beside device seconds.
import type { MigrationInterface, QueryRunner } from 'typeorm'

export class JobCost1764600001000 implements MigrationInterface {
  name = 'JobCost1764600001000'

  async up(runner: QueryRunner) {
    await runner.query('ALTER TABLE "Jobs" ADD COLUMN "flops" real NOT NULL DEFAULT (0)')
    await runner.query('ALTER TABLE "Jobs" ADD COLUMN "units" real NOT NULL DEFAULT (0)')
    // Only CPUs ran jobs until now, at one DCU a second.
    await runner.query('UPDATE "Jobs" SET "units" = "cost"')
  }

  async down(runner: QueryRunner) {
    await runner.query('ALTER TABLE "Jobs" DROP COLUMN "units"')
    await runner.query('ALTER TABLE "Jobs" DROP COLUMN "flops"')
  }
}
