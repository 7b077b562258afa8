// The first schema: all tables, and the default tenant.
import type { MigrationInterface, QueryRunner } from 'typeorm'
import { defaultTenantId } from '../../scope.js'

const statements = [
  `CREATE TABLE "Jobs" (
    "id" varchar(36) PRIMARY KEY NOT NULL,
    "tenantId" varchar(36) NOT NULL,
    "type" varchar(60) NOT NULL,
    "state" varchar(20) NOT NULL,
    "input" text NOT NULL,
    "output" text,
    "context" text,
    "modelId" varchar(36),
    "attempts" integer NOT NULL,
    "cancelRequested" integer NOT NULL,
    "error" text,
    "progress" text,
    "deviceId" varchar(60),
    "createdAt" integer NOT NULL,
    "startedAt" integer,
    "finishedAt" integer,
    "cost" real NOT NULL,
    CONSTRAINT "FK_60f3f05e328151feccd07863d67" FOREIGN KEY ("modelId") REFERENCES "ModelAtoms" ("id")
  )`,
  `CREATE INDEX "IX_Jobs_Model" ON "Jobs" ("modelId", "id")`,
  `CREATE INDEX "IX_Jobs_State" ON "Jobs" ("state", "id")`,
  `CREATE TABLE "IdempotencyKeys" (
    "id" varchar(36) PRIMARY KEY NOT NULL,
    "tenantId" varchar(36) NOT NULL,
    "mutation" varchar(60) NOT NULL,
    "key" varchar(200) NOT NULL,
    "inputHash" varchar(64) NOT NULL,
    "result" text NOT NULL,
    "createdAt" integer NOT NULL
  )`,
  `CREATE UNIQUE INDEX "UX_IdempotencyKeys" ON "IdempotencyKeys" ("tenantId", "mutation", "key")`,
  `CREATE TABLE "Tenants" (
    "id" varchar(36) PRIMARY KEY NOT NULL,
    "name" varchar(400) NOT NULL,
    "description" text,
    "createdAt" integer NOT NULL
  )`,
  `CREATE TABLE "ModelAtoms" (
    "id" varchar(36) PRIMARY KEY NOT NULL,
    "tenantId" varchar(36) NOT NULL,
    "name" varchar(400) NOT NULL,
    "version" varchar(100),
    "architecture" varchar(100) NOT NULL,
    "parameterCount" integer NOT NULL,
    "layerCount" integer NOT NULL,
    "dimensions" text NOT NULL,
    "dtype" varchar(40) NOT NULL,
    "sizeBytes" integer NOT NULL,
    "manifestHash" varchar(64) NOT NULL,
    "source" text,
    "license" varchar(200),
    "isStudent" integer NOT NULL,
    "isProduction" integer NOT NULL,
    "objective" text,
    "parentModelId" varchar(36),
    "createdAt" integer NOT NULL,
    "lastOptimizedAt" integer,
    "deletedAt" integer,
    CONSTRAINT "FK_2869690827cdf9b611bbb4bd769" FOREIGN KEY ("parentModelId") REFERENCES "ModelAtoms" ("id")
  )`,
  `CREATE INDEX "IX_ModelAtoms_Parent" ON "ModelAtoms" ("parentModelId")`,
  `CREATE INDEX "IX_ModelAtoms_Tenant_Name" ON "ModelAtoms" ("tenantId", "name")`,
  `CREATE TABLE "TensorAtoms" (
    "id" varchar(36) PRIMARY KEY NOT NULL,
    "tenantId" varchar(36) NOT NULL,
    "modelId" varchar(36) NOT NULL,
    "ordinal" integer NOT NULL,
    "name" varchar(400) NOT NULL,
    "role" varchar(200),
    "layerIndex" integer,
    "component" varchar(20) NOT NULL,
    "shape" text NOT NULL,
    "dtype" varchar(40) NOT NULL,
    "sizeBytes" integer NOT NULL,
    "payloadHash" varchar(64) NOT NULL,
    "positionX" real NOT NULL,
    "positionY" real NOT NULL,
    "positionZ" real NOT NULL,
    CONSTRAINT "FK_c9e0da8ed29bc2e8dd6b6b4548b" FOREIGN KEY ("modelId") REFERENCES "ModelAtoms" ("id"),
    CONSTRAINT "FK_07d5695a5137dd5056e33d8191e" FOREIGN KEY ("payloadHash") REFERENCES "TensorPayloads" ("hash")
  )`,
  `CREATE INDEX "IX_TensorAtoms_Payload" ON "TensorAtoms" ("payloadHash", "modelId")`,
  `CREATE INDEX "IX_TensorAtoms_Model" ON "TensorAtoms" ("modelId", "ordinal")`,
  `CREATE TABLE "TensorPayloads" (
    "hash" varchar(64) PRIMARY KEY NOT NULL,
    "sizeBytes" integer NOT NULL,
    "referenceCount" integer NOT NULL,
    "createdAt" integer NOT NULL
  )`,
  `CREATE TABLE "ModelEvents" (
    "id" varchar(36) PRIMARY KEY NOT NULL,
    "tenantId" varchar(36) NOT NULL,
    "modelId" varchar(36) NOT NULL,
    "kind" varchar(40) NOT NULL,
    "description" text NOT NULL,
    "jobId" varchar(36),
    "createdAt" integer NOT NULL,
    CONSTRAINT "FK_8965e9bd89116a6ab690f6e858a" FOREIGN KEY ("modelId") REFERENCES "ModelAtoms" ("id")
  )`,
  `CREATE INDEX "IX_ModelEvents_Model" ON "ModelEvents" ("modelId", "id")`,
  `CREATE TABLE "StudentModelRecipes" (
    "id" varchar(36) PRIMARY KEY NOT NULL,
    "tenantId" varchar(36) NOT NULL,
    "name" varchar(400) NOT NULL,
    "parentModelId" varchar(36) NOT NULL,
    "objective" text NOT NULL,
    "capability" varchar(200),
    "layers" text NOT NULL,
    "estimatedParameterCount" integer NOT NULL,
    "estimatedQuality" real,
    "measuredQuality" real,
    "status" varchar(20) NOT NULL,
    "decision" text,
    "studentModelId" varchar(36),
    "jobId" varchar(36),
    "proposalJobId" varchar(36),
    "probeDatasetId" varchar(36),
    "createdAt" integer NOT NULL,
    "builtAt" integer,
    CONSTRAINT "FK_49902fdb59fabc446077fac6aa7" FOREIGN KEY ("parentModelId") REFERENCES "ModelAtoms" ("id"),
    CONSTRAINT "FK_7a6b9270c52ebd8d010e89a9ab4" FOREIGN KEY ("studentModelId") REFERENCES "ModelAtoms" ("id"),
    CONSTRAINT "FK_e33d7f86492e84fa5a36c2d6ac3" FOREIGN KEY ("probeDatasetId") REFERENCES "ProbeDatasets" ("id")
  )`,
  `CREATE INDEX "IX_StudentModelRecipes_Parent" ON "StudentModelRecipes" ("parentModelId", "id")`,
  `CREATE TABLE "ApprovalPolicies" (
    "tenantId" varchar(36) PRIMARY KEY NOT NULL,
    "enabled" integer NOT NULL,
    "minimumQuality" real,
    "maximumParameters" integer,
    "updatedAt" integer NOT NULL
  )`,
  `CREATE TABLE "ModelEvaluations" (
    "id" varchar(36) PRIMARY KEY NOT NULL,
    "tenantId" varchar(36) NOT NULL,
    "modelId" varchar(36) NOT NULL,
    "probeDatasetId" varchar(36) NOT NULL,
    "slug" varchar(200) NOT NULL,
    "split" varchar(20) NOT NULL,
    "loss" real NOT NULL,
    "perplexity" real NOT NULL,
    "accuracy" real,
    "sampleCount" integer NOT NULL,
    "jobId" varchar(36),
    "createdAt" integer NOT NULL,
    CONSTRAINT "FK_0a5e5620e987b286314cfc98ac0" FOREIGN KEY ("modelId") REFERENCES "ModelAtoms" ("id"),
    CONSTRAINT "FK_344f085e6e4c887c5761ce91f65" FOREIGN KEY ("probeDatasetId") REFERENCES "ProbeDatasets" ("id")
  )`,
  `CREATE INDEX "IX_ModelEvaluations_Model" ON "ModelEvaluations" ("modelId", "id")`,
  `CREATE TABLE "StudentModelCapabilityMappings" (
    "id" varchar(36) PRIMARY KEY NOT NULL,
    "tenantId" varchar(36) NOT NULL,
    "studentModelId" varchar(36) NOT NULL,
    "taxonomyId" varchar(36) NOT NULL,
    "capabilityScore" real NOT NULL,
    CONSTRAINT "FK_a06e6be8db2aa4d1432262e0cc0" FOREIGN KEY ("studentModelId") REFERENCES "ModelAtoms" ("id"),
    CONSTRAINT "FK_cba42aa92cb870d6d1c6f9b9b54" FOREIGN KEY ("taxonomyId") REFERENCES "StudentModelTaxonomy" ("id")
  )`,
  `CREATE UNIQUE INDEX "UX_StudentModelCapabilityMappings" ON "StudentModelCapabilityMappings" ("studentModelId", "taxonomyId")`,
  `CREATE TABLE "StudentModelTaxonomy" (
    "id" varchar(36) PRIMARY KEY NOT NULL,
    "tenantId" varchar(36) NOT NULL,
    "parentTaxonomyId" varchar(36),
    "capabilityName" varchar(100) NOT NULL,
    "slug" varchar(200) NOT NULL,
    "capabilityLevel" integer NOT NULL,
    "description" text,
    "createdAt" integer NOT NULL,
    CONSTRAINT "FK_ab455327ba35e1667b8709ec569" FOREIGN KEY ("parentTaxonomyId") REFERENCES "StudentModelTaxonomy" ("id")
  )`,
  `CREATE UNIQUE INDEX "UX_StudentModelTaxonomy_Slug" ON "StudentModelTaxonomy" ("tenantId", "slug")`,
  `CREATE TABLE "ProbeDatasets" (
    "id" varchar(36) PRIMARY KEY NOT NULL,
    "tenantId" varchar(36) NOT NULL,
    "name" varchar(400) NOT NULL,
    "version" integer NOT NULL,
    "probeSetHash" varchar(64) NOT NULL,
    "sampleCount" integer NOT NULL,
    "createdAt" integer NOT NULL
  )`,
  `CREATE UNIQUE INDEX "UX_ProbeDatasets_Name" ON "ProbeDatasets" ("tenantId", "name", "version")`,
  `CREATE TABLE "ProbeSamples" (
    "id" varchar(36) PRIMARY KEY NOT NULL,
    "tenantId" varchar(36) NOT NULL,
    "probeDatasetId" varchar(36) NOT NULL,
    "slug" varchar(200) NOT NULL,
    "probeCount" integer NOT NULL,
    "validationCount" integer NOT NULL,
    CONSTRAINT "FK_e9ed8b085c2feaf3379879c9eea" FOREIGN KEY ("probeDatasetId") REFERENCES "ProbeDatasets" ("id")
  )`,
  `CREATE UNIQUE INDEX "IX_ProbeSamples_Dataset" ON "ProbeSamples" ("probeDatasetId", "slug")`,
  `CREATE TABLE "CapabilityAnalyses" (
    "id" varchar(36) PRIMARY KEY NOT NULL,
    "tenantId" varchar(36) NOT NULL,
    "modelId" varchar(36) NOT NULL,
    "probeDatasetId" varchar(36) NOT NULL,
    "jobId" varchar(36) NOT NULL,
    "samplesPerCapability" integer,
    "baseline" text NOT NULL,
    "layers" text NOT NULL,
    "createdAt" integer NOT NULL,
    CONSTRAINT "FK_43f838242f776c489399f9e913b" FOREIGN KEY ("modelId") REFERENCES "ModelAtoms" ("id"),
    CONSTRAINT "FK_db5a0957776c47c0c8a4999a25d" FOREIGN KEY ("probeDatasetId") REFERENCES "ProbeDatasets" ("id")
  )`,
  `CREATE INDEX "IX_CapabilityAnalyses_Model" ON "CapabilityAnalyses" ("modelId", "id")`,
  `CREATE TABLE "ModelLayerCapabilities" (
    "id" varchar(36) PRIMARY KEY NOT NULL,
    "tenantId" varchar(36) NOT NULL,
    "analysisId" varchar(36) NOT NULL,
    "modelId" varchar(36) NOT NULL,
    "layerIndex" integer NOT NULL,
    "slug" varchar(200) NOT NULL,
    "capabilityScore" real NOT NULL,
    "lossIncrease" real NOT NULL,
    "blockInfluence" real NOT NULL,
    CONSTRAINT "FK_c46f0ecec4136e4675372c5e88a" FOREIGN KEY ("analysisId") REFERENCES "CapabilityAnalyses" ("id"),
    CONSTRAINT "FK_f0b22e80169c56e19deb1193e10" FOREIGN KEY ("modelId") REFERENCES "ModelAtoms" ("id")
  )`,
  `CREATE UNIQUE INDEX "UX_ModelLayerCapabilities" ON "ModelLayerCapabilities" ("analysisId", "layerIndex", "slug")`,
]

export class Initial1763900000000 implements MigrationInterface {
  name = 'Initial1763900000000'

  async up(runner: QueryRunner) {
    for (const statement of statements) await runner.query(statement)
    await runner.query('INSERT INTO "Tenants" ("id", "name", "createdAt") VALUES (?, ?, ?)', [
      defaultTenantId,
      'default',
      Date.now(),
    ])
  }

  async down(runner: QueryRunner) {
    // Tables that refer to one another go in any order; at the commit nothing is left to refer to anything.
    await runner.query('PRAGMA defer_foreign_keys = ON')
    const tables = statements.flatMap(s => /^CREATE TABLE ("\w+")/.exec(s)?.[1] ?? [])
    for (const table of tables.reverse()) await runner.query(`DROP TABLE ${table}`)
  }
}
