// What the database knows of a model that goes out with its files: lineage, recipe, scores. Both planes speak it, like the manifest.
import { z } from 'zod'
import { hashSchema } from './manifest.js'

const intervalSchema = z.tuple([z.number(), z.number()]).nullable()

const ancestorSchema = z.object({
  name: z.string(),
  manifest: hashSchema,
  parameterCount: z.number(),
  layerCount: z.number().int(),
  /** Where it was ingested from, without what only concerns this machine or its keys; null for models built here. */
  source: z.string().nullable(),
  license: z.string().nullable(),
  objective: z.string().nullable(),
})
export type Ancestor = z.infer<typeof ancestorSchema>

export const factScoreSchema = z.object({
  capability: z.string(),
  probeDataset: z.string(),
  split: z.string(),
  loss: z.number(),
  perplexity: z.number(),
  accuracy: z.number().nullable(),
  sampleCount: z.number(),
  /** Of the loss, at 95 %. */
  interval: intervalSchema,
  measuredAt: z.string(),
})
export type FactScore = z.infer<typeof factScoreSchema>

export const modelFactsSchema = z.object({
  version: z.string().nullable(),
  /** The model itself, then its parent, and so on to the one that was ingested. */
  lineage: z.array(ancestorSchema).min(1),
  /** Other models that layers of it are of. */
  layersFrom: z.array(ancestorSchema).optional(),
  /** As mergekit YAML; null where it was not built from a recipe. */
  recipe: z.string().nullable(),
  /** exp(-(its loss - its parent's, or its teacher's)) on the validation split, 1 is that model; null where not measured. */
  quality: z.number().nullable(),
  /** Whether that is beside the teacher that its recipe names, instead of the parent. */
  besideTeacher: z.boolean().optional(),
  /** The newest of each capability, split and probe set. */
  scores: z.array(factScoreSchema),
  /** What happened to it, oldest first: `2026-11-25 …`. */
  history: z.array(z.string()),
  /** What the job that made it reported: stages with their measurements, or what quantising changed. */
  built: z.array(
    z.object({ step: z.string(), figures: z.record(z.string(), z.union([z.number(), z.string(), z.boolean()])) }),
  ),
})
export type ModelFacts = z.infer<typeof modelFactsSchema>
