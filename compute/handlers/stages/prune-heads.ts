// The stage that removes attention heads: chooses them, cuts their rows and columns, and fits what is left where the recipe asks for it.
import { appendFile, mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import type { Calibration, HeadPruning } from '../../../lib/build-stages.js'
import { DomainError } from '../../../lib/errors.js'
import type { Manifest } from '../../../lib/manifest.js'
import { layerDimensions } from '../../architectures/architecture.js'
import { checkBuildable } from '../../architectures/registry.js'
import { readTensorFloat32 } from '../../formats/float-weights.js'
import { readManifest, writeManifest } from '../../formats/manifest.js'
import { openLayers, toBatches } from '../../inference/layer-runner.js'
import { seededRandom } from '../../inference/sampling.js'
import { headImportance } from '../../probing/head-importance.js'
import { keptOf, leastImportant, randomUnits, removalCounts } from '../../surgery/choose-heads.js'
import type { StageContext, StageOutcome } from '../build-stages.js'
import { applyPruning } from './apply-pruning.js'
import { type CalibrationSamples, calibrationSamples } from './calibration.js'
import { type Choice, choiceRuns, chooseByLoss } from './choose-by-loss.js'
import { fitProjections } from './fit-projections.js'

export interface PruneHeadsParameters extends HeadPruning {
  /** Only where something is measured. */
  calibration: Calibration | undefined
}

const name = 'pruneHeads'

export async function pruneHeadsStage(
  hash: string,
  parameters: PruneHeadsParameters,
  context: StageContext,
): Promise<StageOutcome> {
  const manifest = await readManifest(context.payloads, hash)
  const { dimensions: d } = checkBuildable(manifest)
  const { unit, metric, remove, heads, seed, calibration, correct } = parameters
  let samples: CalibrationSamples | undefined
  const measured = async () => (samples ??= await calibrationSamples(calibration, manifest, context))
  let flops = 0
  let losses: (number | null)[] | undefined
  const counts = metric === 'GIVEN' ? [] : removalCounts(d, unit, remove ?? 0)

  const choose = async (): Promise<number[][]> => {
    switch (metric) {
      case 'GIVEN': {
        if (heads?.length !== d.layerCount)
          throw new DomainError(
            'INVALID_RECIPE',
            `headPruning names heads of ${heads?.length ?? 0} layers, the student has ${d.layerCount}`,
          )
        return heads.map(own => own.toSorted((a, b) => a - b))
      }
      case 'RANDOM':
        return randomUnits(d, unit, counts, seededRandom(seed))
      case 'MAGNITUDE':
        return leastImportant(d, unit, counts, await weightNorms(manifest, context))
      case 'GRADIENT':
        return leastImportant(d, unit, counts, await gradientImportance(hash, (await measured()).all, context))
      case 'TASK_LOSS': {
        const found = await taskLoss(manifest, unit, counts, (await measured()).all, context)
        flops += found.flops
        losses = found.choices.map(({ loss }) => (Number.isFinite(loss) ? loss : null))
        return found.choices.map(({ removed }) => removed)
      }
    }
  }
  const removed = await choose()
  const kept = removed.map((own, layer) => keptOf(d, layer, unit, own))
  const pruned = await applyPruning(name, manifest, kept, context)
  let student = pruned.manifest
  let corrected: Record<string, unknown> | undefined
  if (correct) {
    const fitted = await fitProjections(name, 'o', manifest, student, await measured(), context)
    student = fitted.manifest
    flops += fitted.flops
    corrected = { tried: fitted.tried, kept: fitted.kept, ...(fitted.notes.length > 0 ? { notes: fitted.notes } : {}) }
  }
  const { hash: made } = await writeManifest(context.payloads, student, context.signal)
  return {
    manifest: made,
    ...(flops > 0 ? { flops } : {}),
    measurements: {
      unit,
      metric,
      removed,
      parameters: { before: manifest.parameterCount, after: student.parameterCount },
      slicedTensors: pruned.slicedTensors,
      ...(losses ? { losses } : {}),
      ...(corrected ? { corrected } : {}),
      ...(pruned.notes.length > 0 ? { notes: pruned.notes } : {}),
    },
  }
}

const choiceSchema = z.object({ layer: z.number(), removed: z.array(z.number()), loss: z.number() })

/** Choices made so far lie in the stage's folder, one line each: a stage that was killed goes on behind the last whole one. */
async function taskLoss(
  manifest: Manifest,
  unit: HeadPruning['unit'],
  counts: readonly number[],
  samples: CalibrationSamples['all'],
  context: StageContext,
): Promise<{ choices: Choice[]; flops: number }> {
  const file = join(context.folder, 'choices.jsonl')
  const known: Choice[] = []
  for (const line of (await readFile(file, 'utf8').catch(() => '')).split('\n')) {
    try {
      known.push(choiceSchema.parse(JSON.parse(line)))
    } catch {
      // Cut short by a kill: chosen again.
    }
  }
  const batches = toBatches(samples)
  const model = await openLayers(manifest, context)
  const total = choiceRuns(model.dimensions, unit, counts)
  let completed = known.reduce(
    (sum, { layer }) =>
      sum +
      choiceRuns(
        model.dimensions,
        unit,
        counts.map((c, i) => (i === layer ? c : 0)),
      ) -
      counts.length,
    0,
  )
  const report = () =>
    context.progress({ stage: name, completed: Math.min(completed, total), total, unit: 'passes through a layer' })
  try {
    const choices = await chooseByLoss(model, batches, unit, counts, {
      known,
      async chosen(choice) {
        await mkdir(context.folder, { recursive: true })
        await appendFile(file, `\n${JSON.stringify(choice)}`)
      },
      ran(runs) {
        completed += runs
        report()
      },
    })
    return { choices, flops: model.flops }
  } finally {
    await model.dispose()
  }
}

/** [layer][query head]: mean over capabilities of |d loss / d gate|. */
async function gradientImportance(
  hash: string,
  samples: CalibrationSamples['all'],
  context: StageContext,
): Promise<number[][]> {
  const { withScoringModel } = await import('../scoring-model.js')
  return withScoringModel(hash, context, async ({ heads }) => {
    const found = await headImportance(heads, samples, [...new Set(samples.map(s => s.capability))], {
      signal: context.signal,
      progress: ({ measured, total }) => context.progress({ stage: name, completed: measured, total, unit: 'samples' }),
    })
    return Array.from({ length: heads.layerCount }, (_, layer) =>
      found[0]!.layers[layer]!.heads.map((_, head) =>
        found.reduce((sum, { layers }) => sum + layers[layer]!.heads[head]! / found.length, 0),
      ),
    )
  })
}

/** [layer][query head]: Euclidean norm of the head's rows of q and columns of o, and its share of the rows of k and v. */
async function weightNorms(manifest: Manifest, { payloads }: StageContext): Promise<number[][]> {
  const { dimensions: d, tensors, inputFirst } = checkBuildable(manifest)
  const norms: number[][] = []
  for (let layer = 0; layer < d.layerCount; layer++) {
    const { attentionHeadCount, keyValueHeadCount, headSize } = layerDimensions(d, layer)
    const perGroup = attentionHeadCount / keyValueHeadCount
    const squares = new Array<number>(attentionHeadCount).fill(0)
    for (const role of ['q', 'k', 'v', 'o'] as const) {
      const key = `layers.${layer}.${role}`
      const tensor = tensors.get(key)!
      const values = await readTensorFloat32(payloads, tensor)
      const columns = tensor.shape[1]!
      const alongColumns = (role === 'o') !== inputFirst.has(key)
      for (let i = 0; i < values.length; i++) {
        const unit = Math.floor((alongColumns ? i % columns : Math.floor(i / columns)) / headSize)
        if (role === 'q' || role === 'o') squares[unit]! += values[i]! ** 2
        else for (let j = 0; j < perGroup; j++) squares[unit * perGroup + j]! += values[i]! ** 2 / perGroup
      }
    }
    norms.push(squares.map(Math.sqrt))
  }
  return norms
}
