import { readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { readManifest, writeManifest } from '../../../../compute/formats/manifest.js'
import { analyzeCapabilities } from '../../../../compute/handlers/analyze-capabilities.js'
import { buildStudent } from '../../../../compute/handlers/build-student.js'
import { evaluateModel } from '../../../../compute/handlers/evaluate-model.js'
import { importProbes } from '../../../../compute/handlers/import-probes.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { proposeStudents } from '../../../../compute/handlers/propose-students.js'
import type { JobOutput, ProposalOutput } from '../../../../compute/pool/job-types.js'
import { expandRanges, extractLayers } from '../../../../compute/surgery/extract-layers.js'
import { proposedStages } from '../../../../lib/build-stages.js'
import { DomainError } from '../../../../lib/errors.js'
import { projectFile } from '../../../../lib/project.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'

let context: TestHandlerContext
let manifest: string
let probeSet: string
let analysis: JobOutput<'capability.analyze'>
const maxTokens = 256
const input = () => ({ manifest, probeSet, maxTokens, modelName: 'demo', layers: analysis.layers })

beforeAll(async () => {
  context = await handlerContext()
  manifest = (await ingestModel({ source: projectFile('demo', 'model') }, context)).manifest
  probeSet = (await importProbes({ source: projectFile('demo', 'probes') }, context)).probeSet
  analysis = await analyzeCapabilities({ manifest, probeSet, maxTokens }, context)
})
afterAll(() => context.dispose())

describe('capability.analyze on the demo model', () => {
  it('gives every layer a loss increase and a score for every capability', () => {
    expect(analysis.layers.map(l => l.layerIndex)).toEqual([0, 1, 2, 3, 4, 5, 6, 7])
    for (const layer of analysis.layers) {
      expect(layer.capabilities.map(c => c.capability)).toEqual(analysis.baseline.map(b => b.capability))
      for (const { score, lossIncrease } of layer.capabilities) {
        expect(Number.isFinite(lossIncrease)).toBe(true)
        expect(score).toBeGreaterThanOrEqual(0)
        expect(score).toBeLessThanOrEqual(1)
      }
    }
    for (const c of analysis.baseline.keys()) {
      expect(Math.max(...analysis.layers.map(layer => layer.capabilities[c]!.score))).toBe(1)
    }
  })

  it('gives every head of every layer an importance, and measures no sample twice', async () => {
    const slugs = analysis.baseline.map(b => b.capability)
    expect(analysis.heads!.map(h => h.capability)).toEqual(slugs)
    for (const { layers } of analysis.heads!) {
      expect(layers).toHaveLength(8)
      for (const heads of layers) expect(Math.min(...heads)).toBeGreaterThanOrEqual(0)
      expect(Math.max(...layers.flat())).toBeGreaterThan(0)
    }
    context.reports.length = 0
    const again = await analyzeCapabilities({ manifest, probeSet, maxTokens }, context)
    expect(again.heads).toEqual(analysis.heads)
    const heads = context.reports.filter(r => r.stage === 'heads')
    expect(heads).toHaveLength(1)
    expect(heads[0]).toMatchObject({ completed: heads[0]!.total, metrics: { samplesDone: 0 } })
  })

  it('measures what a student without the layer loses', async () => {
    const dropped = 3
    const built = await buildStudent(
      {
        parent: manifest,
        layers: [
          { from: 0, to: dropped },
          { from: dropped + 1, to: 8 },
        ],
      },
      context,
    )
    const { scores } = await evaluateModel({ manifest: built.manifest, probeSet, maxTokens, split: 'probe' }, context)
    scores.forEach((score, c) => {
      const increase = score.loss - analysis.baseline[c]!.loss
      expect(analysis.layers[dropped]?.capabilities[c]?.lossIncrease).toBeCloseTo(increase, 4)
    })
  })

  it('uses no more samples than asked for', async () => {
    const few = await analyzeCapabilities({ manifest, probeSet, maxTokens, samplesPerCapability: 2 }, context)
    expect(few.baseline.map(b => b.sampleCount)).toEqual(few.baseline.map(() => 2))
  })

  it('names the model and the layer where weights are not numbers', async () => {
    const parent = await readManifest(context.payloads, manifest)
    const broken = parent.tensors.find(t => t.role === 'layers.5.down')!
    const { hash } = await context.payloads.put([new Uint8Array(broken.bytes).fill(0xff)])
    const tensors = parent.tensors.map(t => (t === broken ? { ...t, payload: hash } : t))
    const stored = await writeManifest(context.payloads, { ...parent, tensors, sourceName: 'broken' })
    const error = await analyzeCapabilities({ manifest: stored.hash, probeSet, maxTokens }, context).catch(e => e)
    expect(error.code).toBe('NOT_A_NUMBER')
    expect(error.message).toBe(
      'model broken: tensor model.layers.5.mlp.down_proj.weight holds NaN at [0, 0]; nothing can be measured with it',
    )
  })

  it('refuses a probe set whose completions are all cut away', async () => {
    const error = await analyzeCapabilities({ manifest, probeSet, maxTokens: 2 }, context).catch(e => e)
    expect(error.code).toBe('INVALID_PROBE_DATASET')
    expect(error.message).toContain('raise maxTokens')
  })

  it('refuses a model without a tokenizer', async () => {
    const { tokenizer: _, ...rest } = await readManifest(context.payloads, manifest)
    const stored = await writeManifest(context.payloads, rest)
    const error = await analyzeCapabilities({ manifest: stored.hash, probeSet, maxTokens }, context).catch(e => e)
    expect(error.code).toBe('NO_TOKENIZER')
  })

  it('stops soon after it is cancelled', async () => {
    // What was measured before would not be measured again.
    await rm(join(context.dataFolder, 'derived', 'analyses'), { recursive: true })
    const controller = new AbortController()
    const started = performance.now()
    let cancelledAt = 0
    const error = await analyzeCapabilities(
      { manifest, probeSet, maxTokens },
      {
        ...context.withSignal(controller.signal),
        progress: ({ stage, completed }) => {
          if (stage !== 'layers' || completed === 0 || cancelledAt) return
          cancelledAt = performance.now()
          controller.abort()
        },
      },
    ).catch(e => e)
    expect(error.code).toBe('CANCELLED')
    expect(cancelledAt).toBeGreaterThan(started)
    expect(performance.now() - cancelledAt).toBeLessThan(500)
  })
})

const cutsFile = () => join(context.dataFolder, 'derived', 'analyses', `${manifest}.cuts-v1.jsonl`)
/** What was measured before would not be measured again. */
const forgetCuts = () => rm(cutsFile(), { force: true })

let jobs = 0
const newJob = () => ({ ...context, jobId: `search-${++jobs}` })

describe('students.propose on the demo model', () => {
  it('proposes at least two sizes per capability, with the quality that the built student really has', async () => {
    const capabilities = ['code_generation', 'translation']
    const { proposals } = await proposeStudents({ ...input(), capabilities }, newJob())
    for (const capability of capabilities) {
      const sizes = proposals.filter(p => p.capability === capability).map(p => expandRanges(p.layers, 8).length)
      expect(sizes).toEqual(expect.arrayContaining([6, 5]))
      expect(new Set(sizes).size).toBe(sizes.length)
    }
    expect(new Set(proposals.map(p => p.capability))).toEqual(new Set(capabilities))
    const parent = await readManifest(context.payloads, manifest)
    for (const proposal of proposals) {
      const kept = expandRanges(proposal.layers, 8)
      expect(proposal.parameterCount).toBe(extractLayers(parent, kept, manifest).parameterCount)
      for (const range of proposal.layers) expect(range.reason).toMatch(/\d.* nats per token of /)
      const built = await buildStudent({ parent: manifest, layers: proposal.layers }, context)
      const scored = await evaluateModel(
        {
          manifest: built.manifest,
          reference: manifest,
          probeSet,
          maxTokens,
          split: 'validation',
          capabilities: [proposal.capability!],
        },
        context,
      )
      const quality = Math.exp(scored.reference![0]!.loss - scored.scores[0]!.loss)
      expect(proposal.quality).toBeCloseTo(quality, 4)
      expect(proposal.studentLoss).toBeCloseTo(scored.scores[0]!.loss, 4)
    }
  })

  it('within a budget proposes cuts that no smaller one beats, with intervals from samples the search did not see', async () => {
    const begin = performance.now()
    const budgetSeconds = 4
    // Together they need six of the layers: a smaller student is worse.
    const capabilities = ['question_answering', 'creative_writing', 'conversation', 'mathematical_reasoning']
    const mixtures = [{ name: 'four', weights: capabilities.map(capability => ({ capability, weight: 1 })) }]
    const { proposals } = await proposeStudents({ ...input(), capabilities: [], mixtures, budgetSeconds }, newJob())
    expect((performance.now() - begin) / 1000).toBeLessThan(budgetSeconds + 8)
    const sizes = proposals.map(p => p.parameterCount)
    expect(sizes.length).toBeGreaterThanOrEqual(2)
    expect(sizes).toEqual([...new Set(sizes)].sort((a, b) => b - a))
    for (const { quality, qualityInterval, objective } of proposals.filter(p => !p.groups)) {
      expect(qualityInterval![0]).toBeLessThanOrEqual(quality)
      expect(qualityInterval![1]).toBeGreaterThanOrEqual(quality)
      expect(objective).toMatch(
        /^four \(.*\) with \d of 8 layers, the best found among \d+ cuts measured \([a-z ]+; \d+ samples searched, \d+ others judged\)$/,
      )
    }
    const whole = proposals.find(p => !p.groups)!
    const built = await buildStudent({ parent: manifest, layers: whole.layers }, context)
    // A busy machine affords fewer samples in the same seconds.
    const samplesPerCapability = whole.validationSamples! / capabilities.length
    const asked = { manifest: built.manifest, probeSet, maxTokens, split: 'validation' as const }
    const { scores } = await evaluateModel({ ...asked, capabilities, samplesPerCapability }, context)
    expect(whole.studentLoss).toBeCloseTo(
      scores.reduce((sum, score) => sum + score.loss / scores.length, 0),
      4,
    )
  })

  it('within a budget proposes key/value heads to cut too, with the quality, parameters and bytes that the built student has', async () => {
    await forgetCuts()
    const asked = { ...input(), heads: analysis.heads, capabilities: ['translation'], budgetTokens: 30_000 }
    const { proposals } = await proposeStudents(asked, newJob())
    const cuts = proposals.filter(p => p.groups)
    expect(cuts.length).toBeGreaterThanOrEqual(1)
    for (const [i, one] of proposals.entries())
      for (const smaller of proposals.slice(i + 1)) expect(smaller.parameterCount).toBeLessThan(one.parameterCount)
    for (const { layers, groups, objective, name } of cuts) {
      const removed = groups!.flat().length
      expect(name).toMatch(new RegExp(`^demo-translation-\\dof8-without-${removed}-groups$`))
      expect(objective).toMatch(
        /without \d+ key\/value heads?, which (costs|gains) \d.* nats per token beside the layers/,
      )
      const reasons = layers.map(range => range.reason).join(' ')
      groups!.forEach((own, layer) => {
        const source = expandRanges(layers, 8)[layer]
        for (const group of own) expect(reasons).toContain(`${group} of layer ${source} (`)
      })
    }
    const chosen = cuts[0]!
    const stages = {
      headPruning: { unit: 'KEY_VALUE_GROUP', metric: 'GIVEN', heads: chosen.groups!, seed: 0, correct: false },
    } as const
    const built = await buildStudent({ parent: manifest, layers: chosen.layers, stages }, context)
    const student = await readManifest(context.payloads, built.manifest)
    expect(chosen.parameterCount).toBe(student.parameterCount)
    expect(chosen.sizeBytes).toBe(student.tensors.reduce((sum, t) => sum + t.bytes, 0))
    const { scores } = await evaluateModel(
      { manifest: built.manifest, probeSet, maxTokens, split: 'validation', capabilities: ['translation'] },
      context,
    )
    expect(chosen.studentLoss).toBeCloseTo(scores[0]!.loss, 4)
  })

  it('fits projections at the cuts where that is wanted and better, and says what the fitted student is worth, which the build takes over', async () => {
    await forgetCuts()
    const capability = 'code_generation'
    // So small that a layer goes which the capability needs.
    const asked = { ...input(), capabilities: [capability], samplesPerCapability: 8, maximumParameters: 660_000 }
    const plain = (await proposeStudents(asked, newJob())).proposals
    const { proposals } = await proposeStudents({ ...asked, correctCuts: true }, newJob())
    const ranges = (p: ProposalOutput) => p.layers.map(l => [l.from, l.to])
    expect(proposals.map(ranges)).toEqual(plain.map(ranges))
    const fitted = proposals.filter(p => p.calibration)
    expect(fitted.length).toBeGreaterThanOrEqual(1)
    for (const [i, one] of proposals.entries()) {
      const before = { ...plain[i]!, costSeconds: one.costSeconds }
      if (!one.calibration)
        expect(one).toEqual({ ...before, objective: `${before.objective}; fitting its cuts made it no better` })
      else expect(one.studentLoss).toBeLessThan(plain[i]!.studentLoss)
    }
    for (const one of fitted) {
      expect(one.calibration).toMatchObject({ probeSet, capabilities: [capability] })
      expect(one.objective).toContain('fitted anew on the probe split')
      expect(one.name).toMatch(/^demo-code-generation-\dof8-fitted$/)
      const built = await buildStudent({ parent: manifest, layers: one.layers, stages: proposedStages(one)! }, context)
      expect(built.stages!.map(({ stage, reused }) => [stage, reused])).toEqual([
        ['extract', true],
        ['correctCuts', true],
      ])
      expect(one.parameterCount).toBe(built.parameterCount)
      const judged = { probeSet, maxTokens, split: 'validation' as const, capabilities: [capability] }
      const samplesPerCapability = one.validationSamples
      const { scores } = await evaluateModel({ manifest: built.manifest, ...judged, samplesPerCapability }, context)
      expect(one.studentLoss).toBeCloseTo(scores[0]!.loss, 4)
      const student = await readManifest(context.payloads, built.manifest)
      expect(one.sizeBytes).toBe(student.tensors.reduce((sum, t) => sum + t.bytes, 0))
    }
  })

  it('fits students without some key/value heads as they will be built', async () => {
    await forgetCuts()
    const sizes = { budgetTokens: 60_000, maximumParameters: 660_000 }
    const asked = { ...input(), heads: analysis.heads, capabilities: ['code_generation'], ...sizes }
    const { proposals } = await proposeStudents({ ...asked, correctCuts: true }, newJob())
    const both = proposals.filter(p => p.calibration && p.groups)
    expect(both.length).toBeGreaterThanOrEqual(1)
    const [one] = both
    const built = await buildStudent({ parent: manifest, layers: one!.layers, stages: proposedStages(one!)! }, context)
    expect(built.parameterCount).toBe(one!.parameterCount)
    expect(built.stages!.map(({ stage, reused }) => [stage, reused])).toEqual([
      ['extract', true],
      ['correctCuts', true],
      ['pruneHeads', true],
    ])
  })

  it('says where the budget did not reach to fit cuts, and where they could not be fitted', async () => {
    const asked = { ...input(), capabilities: ['translation'], samplesPerCapability: 4, correctCuts: true }
    await forgetCuts()
    const { proposals } = await proposeStudents({ ...asked, budgetTokens: 4000 }, newJob())
    const reached = proposals.filter(p => !p.objective.endsWith('; the budget did not reach to fit its cuts'))
    // The first is fitted whatever the budget.
    expect(reached.length).toBeLessThanOrEqual(1)
    expect(proposals.length).toBeGreaterThan(reached.length)

    await forgetCuts()
    let fitting = false
    const payloads = {
      ...context.payloads,
      get: (hash: string) =>
        fitting ? Promise.reject(new DomainError('PAYLOAD_MISSING', hash)) : context.payloads.get(hash),
    }
    const progress = ({ stage }: { stage: string }) => {
      fitting ||= stage === 'fit'
    }
    const job = { ...context, jobId: newJob().jobId, payloads, progress }
    const unfitted = (await proposeStudents({ ...asked, maxTokens: 200 }, job)).proposals
    expect(unfitted.length).toBeGreaterThanOrEqual(1)
    for (const { objective, calibration } of unfitted) {
      expect(objective).toMatch(/; its cuts could not be fitted$/)
      expect(calibration).toBeUndefined()
    }
  })

  it('stops soon where it is cancelled while it fits', async () => {
    await forgetCuts()
    const controller = new AbortController()
    let [fitting, abortedAt] = [0, 0]
    const asked = { ...input(), capabilities: ['summarization'], maxTokens: 200, correctCuts: true }
    const error = await proposeStudents(asked, {
      ...context.withSignal(controller.signal),
      jobId: newJob().jobId,
      progress: ({ stage }) => {
        // Not the first report, which comes before anything is run.
        if (stage !== 'fit' || ++fitting !== 5) return
        abortedAt = performance.now()
        controller.abort()
      },
    }).catch(e => e)
    expect(error.code).toBe('CANCELLED')
    // A fit takes seconds; a busy machine may take one to stop.
    expect(performance.now() - abortedAt).toBeLessThan(1000)
    expect(fitting).toBeGreaterThanOrEqual(5)
  })

  it('makes a student for a mixture of capabilities, its quality that of the built student on all of them', async () => {
    await forgetCuts()
    const weights = [
      { capability: 'translation', weight: 3 },
      { capability: 'code_generation', weight: 1 },
    ]
    const asked = { ...input(), capabilities: [], mixtures: [{ name: 'office', weights }], budgetTokens: 60_000 }
    const found = await proposeStudents(asked, newJob())
    expect(found.proposals.length).toBeGreaterThanOrEqual(2)
    for (const one of found.proposals)
      for (const other of found.proposals)
        if (other.parameterCount < one.parameterCount) expect(other.studentLoss).toBeGreaterThanOrEqual(one.studentLoss)
    const [large] = found.proposals
    expect(large).toMatchObject({ capability: null, name: expect.stringMatching(/^demo-office-\dof8/) })
    expect(large!.mixture).toEqual({
      name: 'office',
      weights: [
        { capability: 'translation', weight: 0.75 },
        { capability: 'code_generation', weight: 0.25 },
      ],
    })
    expect(large!.objective).toMatch(/^office \(translation 75 %, code generation 25 %\) with \d of 8 layers/)
    const built = await buildStudent(
      { parent: manifest, layers: large!.layers, stages: proposedStages(large!) ?? undefined },
      context,
    )
    const { scores, reference } = await evaluateModel(
      {
        manifest: built.manifest,
        reference: manifest,
        probeSet,
        maxTokens,
        split: 'validation',
        capabilities: ['translation', 'code_generation'],
      },
      context,
    )
    const increase = (capability: string) =>
      scores.find(s => s.capability === capability)!.loss - reference!.find(s => s.capability === capability)!.loss
    const quality = Math.exp(-(0.75 * increase('translation') + 0.25 * increase('code_generation')))
    expect(large!.validationSamples).toBe(scores[0]!.sampleCount + scores[1]!.sampleCount)
    expect(large!.quality).toBeCloseTo(quality, 4)
    expect(large!.qualityInterval![0]).toBeLessThanOrEqual(quality)
    expect(large!.qualityInterval![1]).toBeGreaterThanOrEqual(quality)
  })

  it('says what a student weighs, how fast it can decode and what measuring it costs', async () => {
    const asked = { ...input(), capabilities: ['translation'], budgetTokens: 20_000 }
    const found = await proposeStudents(asked, newJob())
    const proposals = found.proposals.filter(p => !p.groups)
    const parent = await readManifest(context.payloads, manifest)
    for (const [i, proposal] of proposals.entries()) {
      const student = extractLayers(parent, expandRanges(proposal.layers, 8), manifest)
      expect(proposal.sizeBytes).toBe(student.tensors.reduce((sum, t) => sum + t.bytes, 0))
      expect(proposal.costSeconds).toBeGreaterThan(0)
      // Fewer layers are fewer bytes to read per token.
      if (i > 0) expect(proposal.tokensPerSecond).toBeGreaterThan(proposals[i - 1]!.tokensPerSecond!)
    }
  })

  it('goes on where it was stopped, and searches further with more budget', async () => {
    await forgetCuts()
    const controller = new AbortController()
    let spent = 0
    const asked = { ...input(), capabilities: ['translation'], budgetTokens: 30_000 }
    const job = newJob()
    const stopped = await proposeStudents(asked, {
      ...context.withSignal(controller.signal),
      jobId: job.jobId,
      progress: ({ completed }) => {
        spent = completed
        if (completed > 5_000) controller.abort()
      },
    }).catch(e => e)
    expect(stopped.code).toBe('CANCELLED')
    const lines = async () => (await readFile(cutsFile(), 'utf8')).trim().split('\n')
    const before = await lines()
    expect(before.length).toBeGreaterThan(1)
    expect(spent).toBeGreaterThan(5_000)
    await proposeStudents(asked, job)
    const after = await lines()
    expect(after.slice(0, before.length)).toEqual(before)
    const measured = after.flatMap(line => {
      const { cut, nll } = JSON.parse(line) as { cut: string; nll: Record<string, number> }
      return Object.keys(nll).map(sample => `${cut} ${sample}`)
    })
    expect(new Set(measured).size).toBe(measured.length)
  })

  it('respects the limit on parameters', async () => {
    const parent = await readManifest(context.payloads, manifest)
    const maximumParameters = extractLayers(parent, [0, 1, 2, 3], manifest).parameterCount
    const { proposals } = await proposeStudents(
      { ...input(), capabilities: ['translation'], maximumParameters },
      newJob(),
    )
    expect(proposals.map(p => expandRanges(p.layers, 8).length).slice(0, 2)).toEqual([4, 3])
    expect(Math.max(...proposals.map(p => p.parameterCount))).toBeLessThanOrEqual(maximumParameters)
  })

  it('says the smallest possible count where nothing fits', async () => {
    const parent = await readManifest(context.payloads, manifest)
    const smallest = extractLayers(parent, [0], manifest).parameterCount
    const error = await proposeStudents({ ...input(), maximumParameters: 1000 }, newJob()).catch(e => e)
    expect(error.code).toBe('BAD_USER_INPUT')
    expect(error.message).toContain(String(smallest))
  })

  it('refuses a capability that the probe set lacks', async () => {
    const error = await proposeStudents({ ...input(), capabilities: ['law'] }, newJob()).catch(e => e)
    expect(error.code).toBe('BAD_USER_INPUT')
    expect(error.message).toContain('"law"')
  })

  it('refuses an analysis that does not cover the model', async () => {
    const layers = analysis.layers.slice(0, 5)
    const error = await proposeStudents({ ...input(), layers }, newJob()).catch(e => e)
    expect(error.code).toBe('BAD_USER_INPUT')
    expect(error.message).toContain('layer 5')
  })
})
