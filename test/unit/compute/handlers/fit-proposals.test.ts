// Which cuts are fitted within what a search has left.
import { describe, expect, it } from 'vitest'
import { type FitCosts, fitWithin } from '../../../../compute/handlers/fit-proposals.js'
import { DomainError } from '../../../../lib/errors.js'
import { makeLogger } from '../../../../lib/log.js'

const context = (signal = new AbortController().signal) => ({ signal, log: makeLogger('test', 'silent') })

/** Fits 1, 2, 3 … of these costs within a budget; which were fitted. */
async function fitted(
  budget: number,
  costs: readonly number[],
  before: FitCosts = { spent: 0, longest: 0, failed: false },
) {
  const spent = { ...before }
  const done: number[] = []
  const make = async (one: number) => {
    done.push(one)
    return costs[one - 1]!
  }
  const order = costs.map((_, i) => i + 1)
  await fitWithin(order, spent, () => budget - spent.spent, make, context())
  return { done, spent }
}

describe('fits within what is left', () => {
  it.each([
    ['all where there is enough', 100, [10, 10, 10], [1, 2, 3]],
    ['none where nothing is left', 0, [10, 10], []],
    ['the first whatever it takes', 1, [10, 10], [1]],
    ['no other than fits behind the longest', 30, [5, 20, 5], [1, 2]],
    ['one that what is left just exceeds', 31, [10, 10, 10], [1, 2, 3]],
  ])('%s', async (_, budget, costs, expected) => {
    expect((await fitted(budget, costs)).done).toEqual(expected)
  })

  it('knows what fits of other objectives took', async () => {
    const { done, spent } = await fitted(30, [10], { spent: 5, longest: 25, failed: false })
    expect(done).toEqual([])
    expect(spent).toEqual({ spent: 5, longest: 25, failed: false })
  })

  it('ends with one that cannot be made, also for later objectives, and keeps those before', async () => {
    const done: number[] = []
    const costs: FitCosts = { spent: 0, longest: 0, failed: false }
    const make = async (one: number) => {
      if (one === 2) throw new DomainError('DISK_FULL', 'no space left')
      done.push(one)
      return 1
    }
    await fitWithin([1, 2, 3], costs, () => 100, make, context())
    await fitWithin([4], costs, () => 100, make, context())
    expect(done).toEqual([1])
  })

  it('throws what is a bug', async () => {
    const make = async (): Promise<number> => {
      throw new TypeError('no such function')
    }
    const costs = { spent: 0, longest: 0, failed: false }
    await expect(fitWithin([1], costs, () => 100, make, context())).rejects.toThrow('no such function')
  })

  it('throws where the job was cancelled', async () => {
    const controller = new AbortController()
    const make = async (): Promise<number> => {
      controller.abort()
      throw new Error('stopped')
    }
    const stopped = fitWithin([1], { spent: 0, longest: 0, failed: false }, () => 100, make, context(controller.signal))
    await expect(stopped).rejects.toMatchObject({ code: 'CANCELLED' })
  })
})
