import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { readManifest, writeManifest } from '../../../../compute/formats/manifest.js'
import type { BuildStage } from '../../../../compute/handlers/build-stages.js'
import { buildStudent, runStages } from '../../../../compute/handlers/build-student.js'
import type { Manifest } from '../../../../lib/manifest.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'
import { picoManifest } from '../surgery/pico-manifest.js'

let context: TestHandlerContext
let parent: Manifest
let parentHash: string

beforeAll(async () => {
  context = await handlerContext()
  const put = async (bytes: number, seed: number) =>
    (await context.payloads.put([new Uint8Array(bytes).fill(seed % 251)])).hash
  const pico = picoManifest({ layerCount: 4 })
  const tensors = []
  for (const [i, tensor] of pico.tensors.entries()) tensors.push({ ...tensor, payload: await put(tensor.bytes, i) })
  const { sourceFiles: _, tokenizer, ...rest } = pico
  if (!tokenizer) throw new Error('the pico model has a tokenizer')
  parent = {
    ...rest,
    tensors,
    sourceConfig: await put(10, 1),
    tokenizer: { ...tokenizer, tokenizerJson: await put(20, 2) },
  }
  parentHash = (await writeManifest(context.payloads, parent)).hash
})
afterAll(() => context.dispose())

const list = async () => {
  const hashes = []
  for await (const { hash } of context.payloads.list()) hashes.push(hash)
  return hashes.sort()
}
const layers = [
  { from: 0, to: 2 },
  { from: 3, to: 4 },
]

describe('student.build', () => {
  it('adds one payload: the manifest', async () => {
    const before = await list()
    const output = await buildStudent({ parent: parentHash, layers }, context)
    expect((await list()).filter(hash => !before.includes(hash))).toEqual([output.manifest])
    const student = await readManifest(context.payloads, output.manifest)
    expect(student.parent).toEqual({ manifest: parentHash, layers: [0, 1, 3] })
    expect(output).toMatchObject({ layerCount: 3, parameterCount: student.parameterCount })
  })

  it('gives the same manifest when the same job runs again', async () => {
    const first = await buildStudent({ parent: parentHash, layers }, context)
    const before = await list()
    expect(await buildStudent({ parent: parentHash, layers }, context)).toEqual(first)
    expect(await list()).toEqual(before)
  })

  it('waits for the same stage of another build and takes its result over', async () => {
    let running = 0
    let most = 0
    let ran = 0
    const slow: BuildStage = {
      name: 'extract',
      version: 77,
      parameters: () => ({ slow: true }),
      run: async manifest => {
        most = Math.max(most, ++running)
        ran++
        await sleep(300)
        running--
        return { manifest, measurements: { made: ran } }
      },
    }
    const seen: string[] = []
    const watched = { ...context, progress: (p: { unit: string }) => void seen.push(p.unit) }
    const [first, second] = await Promise.all([
      runStages({ parent: parentHash, layers }, watched, [slow]),
      runStages({ parent: parentHash, layers }, watched, [slow]),
    ])
    expect({ ran, most }).toEqual({ ran: 1, most: 1 })
    expect([first[0]!.reused, second[0]!.reused].sort()).toEqual([false, true])
    expect(second[0]!.measurements).toEqual(first[0]!.measurements)
    expect(new Set(seen)).toEqual(new Set(['other builds at this stage', 'results taken over']))
    const left = await readdir(join(context.dataFolder, 'derived', 'stages'))
    expect(left.filter(name => /lock/.test(name))).toEqual([])
  })

  it('makes the stage itself where the build it waited for fails, and stops waiting when cancelled', async () => {
    let ran = 0
    const failing: BuildStage = {
      name: 'extract',
      version: 78,
      parameters: () => ({ failing: true }),
      run: async manifest => {
        if (ran++ === 0) {
          await sleep(300)
          throw new Error('the first one fails')
        }
        return { manifest }
      },
    }
    const first = runStages({ parent: parentHash, layers }, context, [failing])
    const stop = new AbortController()
    const cancelled = runStages({ parent: parentHash, layers }, { ...context, signal: stop.signal }, [failing])
    const second = runStages({ parent: parentHash, layers }, context, [failing])
    setTimeout(() => stop.abort(), 50)
    const outcomes = await Promise.allSettled([first, cancelled, second])
    expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'fulfilled'])
    expect(ran).toBe(2)
  })

  it('names the tensor whose payload is missing', async () => {
    const tensors = parent.tensors.map(t => (t.role === 'layers.3.up' ? { ...t, payload: 'a'.repeat(64) } : t))
    const { hash } = await writeManifest(context.payloads, { ...parent, tensors })
    const before = await list()
    const error = await buildStudent({ parent: hash, layers }, context).catch(e => e)
    expect(error.code).toBe('PAYLOAD_MISSING')
    expect(error.message).toContain('layers.2.mlp.up_proj.weight')
    expect(await list()).toEqual(before)
  })

  it('refuses a manifest that is not in the store', async () => {
    const error = await buildStudent({ parent: 'b'.repeat(64), layers }, context).catch(e => e)
    expect(error.code).toBe('PAYLOAD_MISSING')
  })

  it('refuses a payload that is not a manifest', async () => {
    const { hash } = await context.payloads.put([new TextEncoder().encode('{"manifestVersion":1}')])
    const error = await buildStudent({ parent: hash, layers }, context).catch(e => e)
    expect(error.code).toBe('PAYLOAD_CORRUPT')
  })

  it('leaves nothing behind when cancelled', async () => {
    const before = await list()
    const error = await buildStudent(
      { parent: parentHash, layers: [{ from: 1, to: 2 }] },
      context.withSignal(AbortSignal.abort()),
    ).catch(e => e)
    expect(error.code).toBe('CANCELLED')
    expect(await list()).toEqual(before)
  })
})
