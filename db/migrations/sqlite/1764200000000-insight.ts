// What analyses show beside losses: activations, entropies, clusters, masked groups, and capabilities that nobody named.
import type { MigrationInterface, QueryRunner } from 'typeorm'

/** Columns of tables that other tables refer to are added, never made by copying the table. */
const columns = [
  ['StudentModelTaxonomy', 'status', "varchar(20) NOT NULL DEFAULT ('ESTABLISHED')"],
  ['StudentModelTaxonomy', 'discovery', 'text'],
  ['StudentModelTaxonomy', 'mergedIntoId', 'varchar(36)'],
  ['CapabilityAnalyses', 'clusters', 'text'],
  ['CapabilityAnalyses', 'maskedGroups', 'text'],
  ['CapabilityAnalyses', 'droppedSamples', 'text'],
  ['CapabilityAnalyses', 'centroidsHash', 'varchar(64)'],
  ['ModelLayerCapabilities', 'activation', 'text'],
  ['ModelHeadImportance', 'entropy', 'text'],
] as const

export class Insight1764200000000 implements MigrationInterface {
  name = 'Insight1764200000000'

  async up(runner: QueryRunner) {
    for (const [table, column, type] of columns)
      await runner.query(`ALTER TABLE "${table}" ADD COLUMN "${column}" ${type}`)
    await runner.query('CREATE INDEX "IX_ModelEvaluations_Slug" ON "ModelEvaluations" ("slug", "id")')
  }

  async down(runner: QueryRunner) {
    await runner.query('DROP INDEX "IX_ModelEvaluations_Slug"')
    for (const [table, column] of [...columns].reverse())
      await runner.query(`ALTER TABLE "${table}" DROP COLUMN "${column}"`)
  }
}
