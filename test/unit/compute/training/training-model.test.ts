import { afterAll, beforeAll, expect, test } from 'vitest'
import { tensorName } from '../../../../compute/architectures/registry.js'
import { readManifest } from '../../../../compute/formats/manifest.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { extractLayers } from '../../../../compute/surgery/extract-layers.js'
import { adamWDefaults } from '../../../../compute/training/adamw.js'
import type { TrainingRow } from '../../../../compute/training/batch-feeds.js'
import { openTeacher } from '../../../../compute/training/teacher.js'
import { openTrainingModel } from '../../../../compute/training/training-model.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { referenceNumbers } from '../../../testkit/reference-probes.js'
import { sharedFile, sharedPresent } from '../../../testkit/shared-files.js'

let context: TestHandlerContext
beforeAll(async () => {
  context = await handlerContext({ HARTONOMOUS_THREADS: '1' })
})
afterAll(() => context.dispose())

interface Curve {
  loss: number
  gradNorm: number
  stepLosses: number[]
  lossAfterLastStep: number
  stepGradNorms: number[]
  keptLayers?: number[]
}
type Gradients = Record<string, { norm: number; entries: [number, number][] }>
interface Reference {
  ids: number[][]
  optimiser: { lr: number; weightDecay: number; clip: number; decayed: string[] }
  crossEntropy: Curve
  crossEntropyGradients: Gradients
  crossEntropyFinalWeightNorms: Record<string, number>
  forwardKlT1: Curve
  forwardKlT1Gradients: Gradients
  forwardKlT1FinalWeightNorms: Record<string, number>
  forwardKlT2: Curve
  forwardKlT2Gradients: Gradients
  forwardKlT2FinalWeightNorms: Record<string, number>
}

const present = sharedPresent('Training references', 'reference', 'training_stories260K.json')
const norm = (values: Float32Array) => Math.sqrt(values.reduce((sum, x) => sum + x * x, 0))

const cases = [
  ['cross-entropy', 'crossEntropy', undefined],
  ['divergence from the uncut model at temperature 1', 'forwardKlT1', 1],
  ['divergence from the uncut model at temperature 2', 'forwardKlT2', 2],
] as const

test.runIf(present).each(cases)(
  'stories260K, %s: loss, gradients and ten steps of AdamW are the reference’s',
  async (_name, key, temperature) => {
    const reference = await referenceNumbers<Reference>('training_stories260K.json')
    const { ids, optimiser } = reference
    const curve = reference[key]
    const hash = (await ingestModel({ source: sharedFile('models', 'stories260K') }, context)).manifest
    const whole = await readManifest(context.payloads, hash)
    const manifest = curve.keptLayers ? extractLayers(whole, curve.keptLayers, hash) : whole
    const vocabulary = 512
    const teacher =
      temperature === undefined ? undefined : await openTeacher(whole, context, { tokens: vocabulary, temperature })
    const rows = await Promise.all(
      ids.map(async (own): Promise<TrainingRow> => {
        if (teacher)
          return { ids: own, teacher: await teacher.say(own), divergenceWeights: new Float32Array(64).fill(1 / 128) }
        return { ids: own, crossEntropyWeights: Float32Array.from(own, (_, i) => (i < 63 ? 1 / 126 : 0)) }
      }),
    )
    const roles = manifest.tensors.flatMap(t => (t.role && t.role !== 'lm_head' ? [t.role] : []))
    const nameOf = (role: string) => tensorName('llama', 'safetensors', role)
    const training = await openTrainingModel(manifest, context, {
      trained: roles,
      crossEntropy: !teacher,
      divergence: teacher && { tokens: vocabulary, temperature: temperature! },
      optimiser: { ...adamWDefaults, weightDecay: optimiser.weightDecay },
      decayed: role => optimiser.decayed.includes(nameOf(role)),
      clip: optimiser.clip,
      maximumRows: 128,
      seed: 1,
    })
    const lossOf = (l: { crossEntropy: number; divergence: number }) => l.crossEntropy + l.divergence
    const batch = { rows, seq: 64 }
    expect(Math.abs(lossOf(await training.losses(batch)) / curve.loss - 1)).toBeLessThan(1e-5)
    for (let step = 1; step <= 10; step++) {
      const found = await training.step([batch], optimiser.lr, step)
      const tolerance = step <= 3 ? 1e-4 : 1e-3
      expect(Math.abs(lossOf(found) / curve.stepLosses[step - 1]! - 1), `loss of step ${step}`).toBeLessThan(tolerance)
      expect(Math.abs(found.gradientNorm / curve.stepGradNorms[step - 1]! - 1), `norm of step ${step}`).toBeLessThan(
        tolerance,
      )
      if (step > 1) continue
      const errors = training.tensors.flatMap(({ name, gradient }) => {
        const expected = reference[`${key}Gradients`][nameOf(name)]!
        return [
          Math.abs(norm(gradient) / expected.norm - 1),
          ...expected.entries.map(([index, value]) => Math.abs(gradient[index]! - value) / expected.norm),
        ]
      })
      expect(errors).toHaveLength(roles.length * 6)
      expect(Math.max(...errors)).toBeLessThan(1e-4)
    }
    expect(Math.abs(lossOf(await training.losses(batch)) / curve.lossAfterLastStep - 1)).toBeLessThan(1e-3)
    for (const { name, weight } of training.tensors) {
      const expected = reference[`${key}FinalWeightNorms`][nameOf(name)]!
      expect(Math.abs(norm(weight) / expected - 1), name).toBeLessThan(1e-5)
    }
    await Promise.all([training.dispose(), teacher?.dispose()])
  },
)
