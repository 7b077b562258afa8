import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { graphBuilder } from '../../../../compute/graph/builder.js'
import type { Graph } from '../../../../compute/graph/ir.js'
import { apply } from '../../../../compute/ops/apply.js'
import { chooseBackend } from '../../../../compute/runtime/backend.js'
import { floats, type Session } from '../../../../compute/runtime/session.js'
import { createSessionPool, defaultSessionBudget, type SessionPool } from '../../../../compute/runtime/session-pool.js'

const size = 16
const bytes = size * size * 4

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'pool-'))
  for (const name of ['a', 'b', 'c'])
    await writeFile(join(folder, name), new Float32Array(size * size).fill(name.charCodeAt(0)))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

/** y = x times the matrix of a file. */
function graphOver(file: string): Graph {
  const g = graphBuilder(`over ${file}`)
  const x = g.input('x', 'float32', ['rows', size])
  const w = g.weight('w', [size, size], { location: file, offset: 0, length: bytes })
  g.output(apply(g, 'Gemm', [x, w], { transB: 1 }, { name: 'y' }))
  return g.build()
}
const x = floats(new Float32Array(size).fill(1), [1, size])
const answer = async (session: Session) => (await session.run({ x }, ['y'])).y!.data[0]

/** Sessions of a pool, and how often each was opened. */
async function sessionsIn(pool: SessionPool, files: readonly string[], prepack = false) {
  const backend = await chooseBackend()
  const opened = new Map<number, number>()
  const sessions = []
  for (const [i, file] of files.entries()) {
    const options = { weightsFolder: folder, threads: 1, prepack }
    const session = await pool.add(graphOver(file), options, async () => {
      opened.set(i, (opened.get(i) ?? 0) + 1)
      return backend.createSession(graphOver(file), options)
    })
    sessions.push(session)
  }
  return { sessions, opened }
}

describe('the pool of sessions', () => {
  test('holds no more than its budget, and opens again what it closed', async () => {
    const pool = createSessionPool(2 * bytes)
    const { sessions, opened } = await sessionsIn(pool, ['a', 'b', 'c'])
    expect([pool.openCount, pool.bytes]).toEqual([2, 2 * bytes])
    for (let round = 0; round < 3; round++) {
      expect(await answer(sessions[0]!)).toBe(97 * size)
      expect(await answer(sessions[1]!)).toBe(98 * size)
      expect(await answer(sessions[2]!)).toBe(99 * size)
      expect(pool.bytes).toBeLessThanOrEqual(2 * bytes)
    }
    expect(opened.get(0)).toBe(4)
    for (const session of sessions) await session.dispose()
    expect([pool.openCount, pool.bytes]).toEqual([0, 0])
    await expect(answer(sessions[0]!)).rejects.toThrow('session over a was disposed')
  })

  test('closes what was used longest ago', async () => {
    const pool = createSessionPool(2 * bytes)
    const { sessions, opened } = await sessionsIn(pool, ['a', 'b'])
    await answer(sessions[0]!)
    const third = await sessionsIn(pool, ['c'])
    await answer(sessions[0]!)
    expect(opened.get(0)).toBe(1)
    await answer(sessions[1]!)
    expect(opened.get(1)).toBe(2)
    for (const session of [...sessions, ...third.sessions]) await session.dispose()
  })

  test('counts a mapped file once for all sessions over it, and copies each for itself', async () => {
    const pool = createSessionPool(10 * bytes)
    const mapped = await sessionsIn(pool, ['a', 'a', 'a'])
    expect([pool.openCount, pool.bytes]).toEqual([3, bytes])
    await mapped.sessions[0]!.dispose()
    expect(pool.bytes).toBe(bytes)
    const copied = await sessionsIn(pool, ['a', 'a'], true)
    expect(pool.bytes).toBe(3 * bytes)
    for (const session of [...mapped.sessions, ...copied.sessions]) await session.dispose()
    expect(pool.bytes).toBe(0)
  })

  test('never closes one that runs, and keeps one that is larger than the budget alone', async () => {
    const pool = createSessionPool(bytes / 2)
    const { sessions, opened } = await sessionsIn(pool, ['a', 'b'])
    const many = await Promise.all(Array.from({ length: 20 }, (_, i) => answer(sessions[i % 2]!)))
    expect(many).toEqual(Array.from({ length: 20 }, (_, i) => (97 + (i % 2)) * size))
    const before = opened.get(1)!
    await answer(sessions[1]!)
    await answer(sessions[1]!)
    expect(opened.get(1)! - before).toBeLessThanOrEqual(1)
    expect(pool.openCount).toBe(1)
    for (const session of sessions) await session.dispose()
  })

  test('a session that does not open leaves nothing behind', async () => {
    const pool = createSessionPool(10 * bytes)
    await expect(sessionsIn(pool, ['absent'])).rejects.toThrow(/absent/)
    expect([pool.openCount, pool.bytes]).toEqual([0, 0])
  })

  test('its budget is a share of the memory that the process may use', () => {
    expect(defaultSessionBudget()).toBeGreaterThan(64 * 1024 * 1024)
    expect(Number.isFinite(defaultSessionBudget())).toBe(true)
  })
})
