import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { graphBuilder } from '../../../../compute/graph/builder.js'
import { printGraph } from '../../../../compute/graph/print.js'
import { encodeModel } from '../../../../compute/onnx/encode.js'
import { apply, reshape } from '../../../../compute/ops/apply.js'
import { createSession, floats } from '../../../../compute/runtime/session.js'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'onnx-'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

/** y [rows, 2] = x [rows, 3] times w [2, 3] transposed. */
function linearGraph(location: string) {
  const g = graphBuilder('linear')
  const x = g.input('x', 'float32', ['rows', 3])
  const w = g.weight('w', [2, 3], { location, offset: 4, length: 24 })
  g.output(apply(g, 'Gemm', [x, w], { transB: 1, alpha: 0.5 }, { name: 'y' }))
  return g.build()
}

describe('an encoded graph', () => {
  test('runs: external weights from an offset, float and integer attributes', async () => {
    await writeFile(join(folder, 'weights'), Buffer.from(Float32Array.of(99, 1, 2, 3, 4, 5, 6).buffer))
    const session = await createSession(linearGraph('weights'), { weightsFolder: folder })
    const { y } = await session.run({ x: floats(Float32Array.of(1, 0, 0, 1, 1, 1), [2, 3]) }, ['y'])
    expect(y).toMatchObject({ shape: [2, 2], type: 'float32' })
    expect([...(y!.data as Float32Array)]).toEqual([0.5, 2, 3, 7.5])
    await session.dispose()
    await expect(session.run({}, ['y'])).rejects.toThrow('session linear was disposed')
  })

  test('begins with the IR version and is the same bytes each time', () => {
    const bytes = encodeModel(linearGraph('weights'))
    expect([...bytes.subarray(0, 2)]).toEqual([8, 10])
    expect(encodeModel(linearGraph('weights'))).toEqual(bytes)
  })

  test('a weight outside the folder is refused', async () => {
    await expect(createSession(linearGraph('../weights'), { weightsFolder: folder })).rejects.toThrow()
  })

  test('a weight that is not there is refused', async () => {
    await expect(createSession(linearGraph('absent'), { weightsFolder: folder })).rejects.toThrow()
  })

  test('negative integers keep their sign', async () => {
    const g = graphBuilder('axes')
    const x = g.input('x', 'float32', [2, 3])
    const sums = apply(g, 'ReduceSum', [x, g.int64s([-1])], { keepdims: 1 }, { name: 'sums' })
    g.output(reshape(g, sums, [-1], [2], 'flat'))
    g.output(apply(g, 'ArgMax', [x], { axis: -1, keepdims: 0 }, { name: 'best' }))
    const session = await createSession(g.build(), { weightsFolder: folder })
    const result = await session.run({ x: floats(Float32Array.of(1, 2, 3, 9, 5, 6), [2, 3]) }, ['flat', 'best'])
    expect([...(result.flat!.data as Float32Array)]).toEqual([6, 20])
    expect([...(result.best!.data as BigInt64Array)]).toEqual([2n, 0n])
    await session.dispose()
  })
})

describe('building a graph', () => {
  test('equal constants are one value, and names never collide', () => {
    const g = graphBuilder('shared')
    const x = g.input('x', 'float32', [4, 1])
    expect(g.int64s([1, 2])).toBe(g.int64s([1, 2]))
    const a = apply(g, 'Mul', [x, g.float32(2)], {}, { name: 'twice' })
    const b = apply(g, 'Mul', [a, g.float32(2)], {}, { name: 'twice' })
    g.output(b)
    expect(printGraph(g.build())).toBe(
      [
        'graph shared',
        '  input x: float32[4, 1]',
        '  constant int64[1,2]: int64[2] = {1, 2}',
        '  constant float32(2): float32[] = {2}',
        '  twice: float32[4, 1] = Mul(x, float32(2))',
        '  twice_1: float32[4, 1] = Mul(twice, float32(2))',
        '  output twice_1: float32[4, 1]',
        '',
      ].join('\n'),
    )
    expect(() => g.input('x', 'float32', [])).toThrow('graph shared: two values named x')
  })

  test('shapes that do not fit are refused where the node is added', () => {
    const g = graphBuilder('misfit')
    const x = g.input('x', 'float32', ['rows', 3])
    const w = g.weight('w', [2, 4], { location: 'w', offset: 0, length: 32 })
    expect(() => apply(g, 'Gemm', [x, w], { transB: 1 })).toThrow('Gemm: x [rows,3] and w [2,4] do not fit')
    expect(() => apply(g, 'Add', [x, w])).toThrow('do not broadcast')
  })

  test('an op that is not in the table is refused when encoding', () => {
    const g = graphBuilder('unknown')
    g.node({ op: 'Einsum', inputs: [], outputs: [] })
    expect(() => encodeModel(g.build())).toThrow('op Einsum is not in the table')
  })
})
