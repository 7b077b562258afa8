// The frame of builds: stages run in order, what is finished is kept by content, and a stopped build goes on where it was.
import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { readManifest, writeManifest } from '../../../../compute/formats/manifest.js'
import { type BuildStage, buildStages, stage } from '../../../../compute/handlers/build-stages.js'
import { runStages } from '../../../../compute/handlers/build-student.js'
import { collectGarbage } from '../../../../compute/handlers/collect-garbage.js'
import type { HandlerContext } from '../../../../compute/handlers/handler.js'
import type { Manifest } from '../../../../lib/manifest.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { picoManifest } from '../surgery/pico-manifest.js'

let context: TestHandlerContext
let parentHash: string
beforeEach(async () => {
  context = await handlerContext()
  const { sourceFiles: _, sourceConfig: __, tokenizer: ___, ...pico } = picoManifest({ layerCount: 4 })
  const tensors = []
  for (const [i, tensor] of pico.tensors.entries()) {
    const { hash } = await context.payloads.put([new Uint8Array(tensor.bytes).fill(i % 251)])
    tensors.push({ ...tensor, payload: hash })
  }
  parentHash = (await writeManifest(context.payloads, { ...pico, tensors } as Manifest)).hash
})
afterEach(() => context.dispose())

const input = (to = 3) => ({ parent: parentHash, layers: [{ from: 0, to }] })

/** A stage that marks the manifest, and counts how often it really ran. */
function marking(name: string, mark: string, during?: (folder: string) => Promise<void>) {
  const runs: string[] = []
  const made = stage<{ mark: string }>({
    name,
    version: 1,
    parameters: () => ({ mark }),
    async run(hash, parameters, { payloads, folder }) {
      runs.push(hash)
      await during?.(folder)
      const manifest = await readManifest(payloads, hash)
      const marked = { ...manifest, sourceName: `${manifest.sourceName ?? ''}${parameters.mark}` }
      return { manifest: (await writeManifest(payloads, marked)).hash, measurements: { mark } }
    },
  })
  return { made, runs }
}
const extract = buildStages.find(one => one.name === 'extract')!
const run = (stages: readonly BuildStage[], given: HandlerContext = context, to?: number) =>
  runStages(input(to), given, stages)
const nameOf = async (hash: string) => (await readManifest(context.payloads, hash)).sourceName

describe('stages of a build', () => {
  it('run in order, each on the manifest that the one before it made', async () => {
    const [a, b] = [marking('a', 'a'), marking('b', 'b')]
    const results = await run([extract, a.made, b.made])
    expect(results.map(r => [r.stage, r.reused])).toEqual([
      ['extract', false],
      ['a', false],
      ['b', false],
    ])
    expect(b.runs).toEqual([results[1]!.manifest])
    expect(await nameOf(results[2]!.manifest)).toBe('ab')
    expect(results[2]!.measurements).toEqual({ mark: 'b' })
  })

  it('are taken over by a second attempt, and by another build as far as it begins alike', async () => {
    const first = [marking('a', 'a'), marking('b', 'b')]
    const before = await run([extract, first[0]!.made, first[1]!.made])
    const second = [marking('a', 'a'), marking('b', 'another')]
    const after = await run([extract, second[0]!.made, second[1]!.made])
    expect(after.map(r => r.reused)).toEqual([true, true, false])
    expect(second[0]!.runs).toEqual([])
    expect(after[1]).toEqual({ ...before[1], reused: true })
    expect(await nameOf(after[2]!.manifest)).toBe('aanother')
    // Another parent manifest shares nothing.
    expect((await run([extract, second[0]!.made], context, 2)).map(r => r.reused)).toEqual([false, false])
  })

  it('go on behind the last finished one where a build was stopped, to the same manifest', async () => {
    const undisturbed = await run([extract, marking('a', 'x').made, marking('b', 'y').made])
    await collectGarbage({ manifests: [parentHash], payloads: [] }, context)
    const a = marking('a', 'x')
    const dies = marking('b', 'y', async folder => {
      await mkdir(folder, { recursive: true })
      await writeFile(join(folder, 'checkpoint'), 'half')
      throw new Error('killed')
    })
    await expect(run([extract, a.made, dies.made])).rejects.toThrow('killed')
    let found = ''
    const b = marking('b', 'y', async folder => {
      found = await readFile(join(folder, 'checkpoint'), 'utf8')
    })
    const again = await run([extract, a.made, b.made])
    expect(a.runs).toHaveLength(1)
    expect(found).toBe('half')
    expect(again.map(r => r.manifest)).toEqual(undisturbed.map(r => r.manifest))
    const left = await readdir(join(context.dataFolder, 'derived', 'stages'))
    expect(left.toSorted()).toEqual(again.map(r => `${r.key}.json`).toSorted())
  })

  it('are made again where a payload of their result is gone or the record is damaged', async () => {
    const a = marking('a', 'a')
    const [, result] = await run([extract, a.made])
    await context.payloads.remove(result!.manifest)
    expect((await run([extract, a.made]))[1]).toMatchObject({ reused: false, manifest: result!.manifest })
    await writeFile(join(context.dataFolder, 'derived', 'stages', `${result!.key}.json`), '{"half')
    expect((await run([extract, a.made]))[1]).toMatchObject({ reused: false, manifest: result!.manifest })
    expect(a.runs).toHaveLength(3)
  })

  it('stop between two where the job is cancelled', async () => {
    const abort = new AbortController()
    const a = marking('a', 'a', async () => abort.abort())
    const b = marking('b', 'b')
    await expect(run([extract, a.made, b.made], context.withSignal(abort.signal))).rejects.toMatchObject({
      code: 'CANCELLED',
    })
    expect(b.runs).toEqual([])
    expect((await run([extract, a.made])).map(r => r.reused)).toEqual([true, true])
  })

  it('keep what they made from a garbage collection while their build may go on, and no longer', async () => {
    const [result] = await run([extract])
    const record = join(context.dataFolder, 'derived', 'stages', `${result!.key}.json`)
    const collect = (builds: unknown[]) => collectGarbage({ manifests: [parentHash], payloads: [], builds }, context)
    await collect([input()])
    expect(await context.payloads.has(result!.manifest)).toBe(true)
    expect(existsSync(record)).toBe(true)
    await collect([input(1), { nonsense: true }])
    expect(await context.payloads.has(result!.manifest)).toBe(false)
    expect(existsSync(record)).toBe(false)
  })
})
