// Order, bound, end and failure of the queue between a push and a pull.
import { expect, test } from 'vitest'
import { boundedQueue } from '../../../gateway/bounded-queue.js'

test('values come in order, before and after the reader waits', async () => {
  const { push, stream, end } = boundedQueue<number>(10, () => {})
  push(1)
  const later = [stream.next(), stream.next()]
  push(2)
  expect((await Promise.all(later)).map(r => r.value)).toEqual([1, 2])
  push(3)
  end()
  expect([(await stream.next()).value, (await stream.next()).done]).toEqual([3, true])
})
test('a full queue takes no more', () => {
  const { push } = boundedQueue<number>(2, () => {})
  expect([push(1), push(2), push(3)]).toEqual([true, true, false])
})
test('a failure comes after what is queued, once', async () => {
  const { push, fail, stream } = boundedQueue<number>(2, () => {})
  push(1)
  fail(new Error('broken'))
  expect((await stream.next()).value).toBe(1)
  await expect(stream.next()).rejects.toThrow('broken')
  expect((await stream.next()).done).toBe(true)
})
test('a failure reaches a reader that waits', async () => {
  const { fail, stream } = boundedQueue<number>(2, () => {})
  const [first, second] = [stream.next(), stream.next()]
  fail(new Error('broken'))
  await expect(first).rejects.toThrow('broken')
  expect((await second).done).toBe(true)
})
test('a reader that returns ends its waits and tells the source once', async () => {
  let cancelled = 0
  const { stream, push } = boundedQueue<number>(2, () => cancelled++)
  const waiting = stream.next()
  await stream.return?.()
  await stream.return?.()
  expect((await waiting).done).toBe(true)
  expect([cancelled, push(1)]).toEqual([1, true])
})
