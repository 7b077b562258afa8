// What analyses measure for attention heads.
import type { MigrationInterface, QueryRunner } from 'typeorm'

export class HeadImportance1764000000000 implements MigrationInterface {
  name = 'HeadImportance1764000000000'

  async up(runner: QueryRunner) {
    await runner.query(`CREATE TABLE "ModelHeadImportance" (
      "id" varchar(36) PRIMARY KEY NOT NULL,
      "tenantId" varchar(36) NOT NULL,
      "analysisId" varchar(36) NOT NULL,
      "modelId" varchar(36) NOT NULL,
      "layerIndex" integer NOT NULL,
      "slug" varchar(200) NOT NULL,
      "keyValueHeadCount" integer NOT NULL,
      "importance" text NOT NULL,
      CONSTRAINT "FK_0c276ddce48f54506d8f149c4fe" FOREIGN KEY ("analysisId") REFERENCES "CapabilityAnalyses" ("id"),
      CONSTRAINT "FK_d2b29a020362bc8a1743f307c22" FOREIGN KEY ("modelId") REFERENCES "ModelAtoms" ("id")
    )`)
    await runner.query(
      'CREATE UNIQUE INDEX "UX_ModelHeadImportance" ON "ModelHeadImportance" ("analysisId", "layerIndex", "slug")',
    )
  }

  async down(runner: QueryRunner) {
    await runner.query('DROP TABLE "ModelHeadImportance"')
  }
}
