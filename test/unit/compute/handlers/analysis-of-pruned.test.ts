// An analysis of a model whose layers kept different numbers of heads: every figure is of a head that is there.
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { analyzeCapabilities } from '../../../../compute/handlers/analyze-capabilities.js'
import { runStages } from '../../../../compute/handlers/build-student.js'
import { importProbes } from '../../../../compute/handlers/import-probes.js'
import { ingestModel } from '../../../../compute/handlers/ingest-model.js'
import { jobTypes } from '../../../../compute/pool/job-types.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { runLlamaFloat64 } from '../../../testkit/llama-float64.js'
import { writePicoLlama } from '../../../testkit/pico-llama.js'

let context: TestHandlerContext
beforeAll(async () => {
  context = await handlerContext({ HARTONOMOUS_THREADS: '1' })
})
afterAll(() => context.dispose())

/** As the pico tokenizer has them: BOS, then one token per character. */
const idsOf = (text: string) => [1, ...[...text].map(c => 3 + ' abcdefghijklmnopqrstuvwxyz'.indexOf(c))]

test('groups, importance and entropies follow the heads that each layer kept', async () => {
  const pico = await writePicoLlama(join(context.dataFolder, 'pico'), { layers: 3 })
  const { manifest: parent } = await ingestModel({ source: join(context.dataFolder, 'pico') }, context)
  const file = join(context.dataFolder, 'probes.jsonl')
  const lines = ['probe', 'validation'].map(split => ({
    task: 'a',
    subtask: 'b',
    split,
    prompt: 'abc',
    completion: ' yes',
  }))
  await writeFile(file, lines.map(line => JSON.stringify(line)).join('\n'))
  const { probeSet } = await importProbes({ source: file }, context)
  const heads = [[1], [], [0]]
  const stages = { headPruning: { metric: 'GIVEN', unit: 'KEY_VALUE_GROUP', heads } }
  const input = jobTypes['student.build'].input.parse({ parent, layers: [{ from: 0, to: 3 }], stages })
  const built = (await runStages(input, context)).at(-1)!

  const output = jobTypes['capability.analyze'].output.parse(
    await analyzeCapabilities({ manifest: built.manifest, probeSet, maxTokens: 256, maskedGroups: 256 }, context),
  )
  const [found] = output.heads!
  expect(found!.keyValueHeadCounts).toEqual([1, 2, 1])
  expect(found!.layers.map(layer => layer.length)).toEqual([2, 4, 2])
  expect(found!.layers.flat().every(importance => importance > 0)).toBe(true)
  expect(output.groups!.map(g => [g.layerIndex, g.keyValueHeadIndex])).toEqual([
    [0, 0],
    [1, 0],
    [1, 1],
    [2, 0],
  ])
  // The first layer sees what it saw in the parent: its two heads attend as they did there.
  const positions = runLlamaFloat64(pico, idsOf('abc yes')).entropies[0]!.slice(1)
  for (const head of [0, 1]) {
    const expected = positions.reduce((sum, own) => sum + own[head]!, 0) / positions.length
    expect(found!.entropy![0]![head]).toBeCloseTo(expected, 5)
  }
})
