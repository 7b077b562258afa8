// What an export job is told about its model: from the rows of models, recipes, jobs and evaluations.
import { expect, test } from 'vitest'
import { ModelEvaluation, StudentModelRecipe } from '../../../../db/entities/index.js'
import { registerModel } from '../../../../db/models.js'
import { defaultTenantId } from '../../../../db/scope.js'
import { newId, parseGlobalId, toGlobalId } from '../../../../lib/ids.js'
import { subgraph } from '../../../../subgraphs/models/subgraph.js'
import {
  addModel,
  addProbeDataset,
  jobOf,
  makeManifest,
  openSubgraphPlatform,
  run,
} from '../../../testkit/subgraph-platform.js'

test('lineage up to the source, the recipe and the newest score of each capability go with an export', async () => {
  const kit = await openSubgraphPlatform(subgraph)
  try {
    const parent = await addModel(kit.platform, 'parent', makeManifest({ layers: 4, license: 'mit' }))
    const second = await addModel(kit.platform, 'second', makeManifest({ layers: 4, license: 'apache-2.0' }))
    const manifest = makeManifest({ layers: 2 })
    const { hash } = await kit.platform.payloads.put([Buffer.from(JSON.stringify(manifest))])
    const tenantId = defaultTenantId
    const mine = { name: 'mine', version: 3, probeSetHash: 'c'.repeat(64) }
    const { id: probeDatasetId } = await addProbeDataset(kit.platform, mine)
    const student = await kit.platform.db.tx(async em => {
      const row = await registerModel(em, {
        ...{ tenantId, manifest, manifestHash: hash, name: 'student', source: null, parentModelId: parent.id },
        ...{ isStudent: true, objective: 'shorter', jobId: null },
      })
      await em.insert(StudentModelRecipe, {
        ...{ id: newId(), tenantId, name: 'cut', parentModelId: parent.id, objective: 'shorter', status: 'BUILT' },
        ...{
          layers: [
            { from: 0, to: 1 },
            { from: 1, to: 2, modelId: second.id },
          ],
          estimatedParameterCount: 1,
          measuredQuality: 0.5,
          studentModelId: row.id,
        },
        createdAt: new Date(),
      } as never)
      for (const loss of [3, 2])
        await em.insert(ModelEvaluation, {
          ...{ id: newId(), tenantId, modelId: row.id, probeDatasetId, slug: 'translation', split: 'validation', loss },
          ...{ perplexity: Math.exp(loss), accuracy: null, sampleCount: 4, lossInterval: [1, 3], jobId: null },
          createdAt: new Date(),
        } as never)
      return row
    })
    const { exportModel } = await run(
      ...([subgraph.schema, kit.context()] as const),
      'mutation ($id: ID!) { exportModel(input: { modelId: $id, format: GGUF }) { job { id } userErrors { message } } }',
      { id: toGlobalId('Model', student.id) },
    )
    await kit.store.claim('io', 'io')
    const { input } = await jobOf(kit.platform, 'model.export', parseGlobalId(exportModel.job.id)!.id)
    expect(input.facts).toMatchObject({
      lineage: [
        { name: 'student', source: null, objective: 'shorter' },
        { name: 'parent', source: 'parent', license: 'mit', layerCount: 4 },
      ],
      layersFrom: [{ name: 'second', license: 'apache-2.0' }],
      recipe: expect.stringContaining('model: second'),
      quality: 0.5,
      scores: [{ capability: 'translation', loss: 2, interval: [1, 3], probeDataset: 'mine (version 3)' }],
    })
  } finally {
    await kit.close()
  }
})
