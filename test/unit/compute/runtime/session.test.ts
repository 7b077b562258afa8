import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { graphBuilder } from '../../../../compute/graph/builder.js'
import type { Graph, Value } from '../../../../compute/graph/ir.js'
import { apply, reshape } from '../../../../compute/ops/apply.js'
import { chooseBackend } from '../../../../compute/runtime/backend.js'
import type { BackendName } from '../../../../compute/runtime/backend-face.js'
import { createSession, floats, int32s, int64s } from '../../../../compute/runtime/session.js'
import { takingTurns } from '../../../../compute/runtime/turns.js'
import { DomainError } from '../../../../lib/errors.js'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'runtime-'))
  await writeFile(join(folder, 'weights'), Buffer.from(Float32Array.of(1, 2, 3, 4, 5, 6).buffer))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

/** y [rows, 2] = x [rows, 3] times w [2, 3] transposed. */
function linearGraph(location = 'weights'): Graph {
  const g = graphBuilder('linear')
  const x = g.input('x', 'float32', ['rows', 3])
  const w = g.weight('w', [2, 3], { location, offset: 0, length: 24 })
  g.output(apply(g, 'Gemm', [x, w], { transB: 1 }, { name: 'y' }))
  return g.build()
}
/** `flat` is x as one row, whose length no input names. */
function flatGraph(): Graph {
  const g = graphBuilder('flat')
  const x = g.input('x', 'float32', ['rows', 'columns'])
  g.output(reshape(g, apply(g, 'Sigmoid', [x]), [-1], ['elements'], 'flat'))
  return g.build()
}
const chainSize = 512
/** `y` = x multiplied by itself some times over: a run of a second or so in kernels of milliseconds. */
function chainGraph(links: number): Graph {
  const g = graphBuilder('chain')
  const x = g.input('x', 'float32', [chainSize, chainSize])
  let y: Value = x
  for (let i = 0; i < links; i++) y = apply(g, 'Gemm', [y, x], {}, { name: i === links - 1 ? 'y' : 'link' })
  g.output(y)
  return g.build()
}
const chainInput = () => floats(new Float32Array(chainSize * chainSize).fill(1 / chainSize), [chainSize, chainSize])

describe.each<BackendName>(['native', 'binding'])('a session of the %s backend', backend => {
  const open = (graph: Graph) => createSession(graph, { weightsFolder: folder, backend, threads: 1 })

  test('runs on mapped weights and names what it is', async () => {
    const session = await open(linearGraph())
    const { y } = await session.run({ x: floats(Float32Array.of(1, 0, 0, 1, 1, 1), [2, 3]) }, ['y'])
    expect(y).toMatchObject({ type: 'float32', shape: [2, 2] })
    expect([...(y!.data as Float32Array)]).toEqual([1, 4, 6, 15])
    expect(session).toMatchObject({ backend, inputs: ['x'], outputs: ['y'] })
    await session.dispose()
  })

  test('gives results of a size that only the run tells, which outlive the session', async () => {
    const session = await open(flatGraph())
    const results = []
    for (const rows of [1, 2, 3]) {
      const x = floats(new Float32Array(rows * 4), [rows, 4])
      results.push((await session.run({ x }, ['flat'])).flat!)
    }
    await session.dispose()
    expect(results.map(r => r.shape)).toEqual([[4], [8], [12]])
    for (const { data } of results) expect([...(data as Float32Array)].every(v => v === 0.5)).toBe(true)
  })

  test('takes scalars, other number types and tensors of no elements', async () => {
    const g = graphBuilder('types')
    const x = g.input('x', 'float32', ['rows', 2])
    const rows = g.input('wanted', 'int64', ['wanted rows'])
    const scale = g.input('scale', 'int32', [])
    const chosen = apply(g, 'Gather', [x, rows], { axis: 0 }, { name: 'chosen' })
    g.output(chosen)
    g.output(apply(g, 'ArgMax', [chosen], { axis: -1, keepdims: 0 }, { name: 'best' }))
    g.output(apply(g, 'Mul', [scale, scale], {}, { name: 'square' }))
    g.output(reshape(g, chosen, [-1], ['elements'], 'flat'))
    const session = await open(g.build())
    const feeds = { x: floats(Float32Array.of(1, 2, 4, 3), [2, 2]), scale: int32s([7], []) }
    const names = ['chosen', 'best', 'square', 'flat']
    const two = await session.run({ ...feeds, wanted: int64s([1, 0]) }, names)
    expect([...(two.best!.data as BigInt64Array)]).toEqual([0n, 1n])
    expect(two.square).toMatchObject({ type: 'int32', shape: [], data: Int32Array.of(49) })
    expect([...(two.flat!.data as Float32Array)]).toEqual([4, 3, 1, 2])
    const none = await session.run({ ...feeds, wanted: int64s([]) }, names)
    expect([none.chosen!.shape, none.flat!.shape]).toEqual([[0, 2], [0]])
    expect(none.chosen!.data).toHaveLength(0)
    await session.dispose()
  })

  test('writes into memory of the caller, also over its own input', async () => {
    const g = graphBuilder('in place')
    const x = g.input('x', 'float32', ['n'])
    g.output(apply(g, 'Mul', [x, g.float32(2)], {}, { name: 'twice' }))
    const session = await open(g.build())
    const buffer = floats(Float32Array.of(1, 2, 3), [3])
    for (let i = 0; i < 3; i++) {
      const { twice } = await session.run({ x: buffer }, ['twice'], { into: { twice: buffer } })
      expect(twice).toBe(buffer)
    }
    expect([...(buffer.data as Float32Array)]).toEqual([8, 16, 24])
    await session.dispose()
  })

  test('failures carry the words of ONNX Runtime and leave the session usable', async () => {
    const session = await open(linearGraph())
    const x = floats(new Float32Array(8), [2, 4])
    await expect(session.run({ x }, ['y'])).rejects.toThrow(/invalid dimensions for input: x/)
    await expect(session.run({}, ['y'])).rejects.toThrow()
    await expect(session.run({ x: floats(new Float32Array(3), [1, 3]) }, ['z'])).rejects.toThrow(/no output z/)
    await expect(session.run({ z: x }, ['y'])).rejects.toThrow(/no input z/)
    expect((await session.run({ x: floats(new Float32Array(3), [1, 3]) }, ['y'])).y!.shape).toEqual([1, 2])
    await session.dispose()
    await expect(open(linearGraph('absent'))).rejects.toThrow(/absent/)
    await expect(open(linearGraph('../weights'))).rejects.toThrow(/escapes model directory/)
  })

  test('a disposed session refuses to run and may be disposed again', async () => {
    const session = await open(linearGraph())
    await session.dispose()
    await session.dispose()
    await expect(session.run({}, ['y'])).rejects.toThrow('session linear was disposed')
  })

  test('an aborted signal stops a run before it begins, with its own reason where that is ours', async () => {
    const session = await open(linearGraph())
    const feeds = { x: floats(new Float32Array(3), [1, 3]) }
    await expect(session.run(feeds, ['y'], { signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'CANCELLED',
    })
    const reason = new DomainError('WORKER_LOST', 'The worker was asked to end')
    await expect(session.run(feeds, ['y'], { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
    await session.dispose()
  })

  test('runs asked for at once all give their own results', async () => {
    const session = await open(linearGraph())
    const results = await Promise.all(
      [1, 2, 3, 4, 5].map(v => session.run({ x: floats(Float32Array.of(v, 0, 0), [1, 3]) }, ['y'])),
    )
    expect(results.map(r => r.y!.data[0])).toEqual([1, 2, 3, 4, 5])
    await session.dispose()
  })

  test('thousands of runs leave no memory behind', async () => {
    setFlagsFromString('--expose-gc')
    const collect: () => void = runInNewContext('gc')
    const session = await open(flatGraph())
    const x = floats(new Float32Array(256 * 1024), [256, 1024])
    const settle = async () => {
      for (let i = 0; i < 3; i++) {
        collect()
        await sleep(10)
      }
      return process.memoryUsage().rss
    }
    const many = async (count: number) => {
      for (let i = 0; i < count; i++) {
        await session.run({ x }, ['flat'])
        if (i % 50 === 49) await settle()
      }
    }
    await many(100)
    const before = await settle()
    await many(1000)
    // A thousand results of 1 MB each.
    expect((await settle()) - before).toBeLessThan(100 * 1024 * 1024)
    await session.dispose()
  })
})

describe('the native backend', () => {
  const open = (graph: Graph) => createSession(graph, { weightsFolder: folder, backend: 'native', threads: 1 })

  test('is the one chosen where it loads', async () => {
    expect((await chooseBackend()).name).toBe('native')
  })

  test('leaves the event loop free while it runs', async () => {
    const session = await open(chainGraph(100))
    let turns = 0
    const timer = setInterval(() => turns++, 5)
    await session.run({ x: chainInput() }, ['y'])
    clearInterval(timer)
    expect(turns).toBeGreaterThan(10)
    await session.dispose()
  })

  test('a run that is aborted ends at once, frees its turn, and the session runs on', async () => {
    const session = await open(chainGraph(2000))
    const abort = new AbortController()
    const began = performance.now()
    const run = session.run({ x: chainInput() }, ['y'], { signal: abort.signal })
    await sleep(50)
    abort.abort()
    await expect(run).rejects.toMatchObject({ code: 'CANCELLED' })
    // The turn is free only when ONNX Runtime has left the run: 2,000 kernels of some milliseconds were cut short.
    const short = await open(linearGraph())
    await short.run({ x: floats(new Float32Array(3), [1, 3]) }, ['y'])
    expect(performance.now() - began).toBeLessThan(2000)
    await short.dispose()
    await session.dispose()
  })

  test('leaves a run within 50 ms of its signal', async () => {
    const session = await open(chainGraph(2000))
    const short = await open(linearGraph())
    const waits: number[] = []
    // The quickest of three, since other processes may hold the processors meanwhile.
    for (let i = 0; i < 3; i++) {
      const abort = new AbortController()
      const run = session.run({ x: chainInput() }, ['y'], { signal: abort.signal })
      await sleep(50)
      const began = performance.now()
      abort.abort()
      await expect(run).rejects.toMatchObject({ code: 'CANCELLED' })
      // Runs take turns: this one begins when ONNX Runtime has left the other.
      await short.run({ x: floats(new Float32Array(3), [1, 3]) }, ['y'])
      waits.push(performance.now() - began)
    }
    expect(Math.min(...waits)).toBeLessThan(50)
    await short.dispose()
    await session.dispose()
  })

  test.skipIf(process.platform !== 'linux')('sessions map one file of weights and copy none of it', async () => {
    const rows = 4096
    const columns = 2048
    await writeFile(join(folder, 'large'), new Float32Array(rows * columns).fill(0.5))
    const g = graphBuilder('large')
    const x = g.input('x', 'float32', ['rows', columns])
    const w = g.weight('w', [rows, columns], { location: 'large', offset: 0, length: rows * columns * 4 })
    g.output(apply(g, 'Gemm', [x, w], { transB: 1 }, { name: 'y' }))
    const graph = g.build()
    const sessions = [await open(graph), await open(graph), await open(graph)]
    for (const session of sessions) {
      const { y } = await session.run({ x: floats(new Float32Array(columns).fill(1), [1, columns]) }, ['y'])
      expect(y!.data[rows - 1]).toBe(columns / 2)
    }
    const mappings = (await readFile('/proc/self/smaps', 'utf8')).split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)
    const own = mappings.filter(text => text.split('\n')[0]!.endsWith(join(folder, 'large')))
    const kilobytes = (field: string) =>
      own.reduce((sum, text) => sum + Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(text)![1]), 0)
    expect(kilobytes('Rss')).toBeGreaterThanOrEqual((rows * columns * 4) / 1024)
    expect(kilobytes('Anonymous')).toBe(0)
    // In proportion to who maps it, three times the same page cache is one.
    expect(kilobytes('Pss')).toBeLessThan((1.1 * rows * columns * 4) / 1024)
    for (const session of sessions) await session.dispose()
  })

  test('disposing waits for the run at work', async () => {
    const session = await open(chainGraph(20))
    const run = session.run({ x: chainInput() }, ['y'])
    await sleep(1)
    await session.dispose()
    const { y } = await run
    expect(y!.data[0]).toBeCloseTo(1 / chainSize)
  })
})

describe('taking turns', () => {
  test('goes by the order asked for, and who leaves the queue is passed over', async () => {
    const take = takingTurns()
    const order: string[] = []
    const abort = new AbortController()
    const cancelled = () => new Error('left')
    const first = await take(undefined, cancelled)
    const leaver = take(abort.signal, cancelled).then(
      () => order.push('leaver'),
      () => order.push('left'),
    )
    const others = ['a', 'b'].map(async name => {
      const end = await take(undefined, cancelled)
      order.push(name)
      end()
      end()
    })
    abort.abort()
    await leaver
    first()
    await Promise.all(others)
    expect(order).toEqual(['left', 'a', 'b'])
  })
})
