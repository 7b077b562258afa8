// Mapped streams: what becomes of the source when a map fails or the reader leaves.
import { expect, test } from 'vitest'
import { mapStream } from '../../../gateway/source.js'

function countdown() {
  let left = 3
  let returned = 0
  const source: AsyncIterableIterator<number> = {
    [Symbol.asyncIterator]: () => source,
    next: async () => (left > 0 ? { done: false, value: left-- } : { done: true, value: undefined }),
    return: async () => {
      returned++
      return { done: true, value: undefined }
    },
  }
  return { source, returned: () => returned }
}

test('a map that throws ends the stream and closes the source', async () => {
  const { source, returned } = countdown()
  let ended = 0
  const stream = mapStream(
    source,
    n => {
      if (n < 3) throw new Error(`no ${n}`)
      return n
    },
    () => ended++,
  )
  expect(await stream.next()).toEqual({ done: false, value: 3 })
  await expect(stream.next()).rejects.toThrow('no 2')
  expect([ended, returned()]).toEqual([1, 1])
  expect(await stream.next()).toEqual({ done: true, value: undefined })
})

test('a reader that leaves closes the source once', async () => {
  const { source, returned } = countdown()
  let ended = 0
  for await (const n of mapStream(
    source,
    n => n,
    () => ended++,
  ))
    if (n === 2) break
  expect([ended, returned()]).toEqual([1, 1])
})
