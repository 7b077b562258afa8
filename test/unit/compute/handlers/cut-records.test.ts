// Where a search began, and what it had measured when it was killed.
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { openCutRecords } from '../../../../compute/handlers/cut-records.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'

let context: TestHandlerContext
beforeEach(async () => {
  context = await handlerContext()
})
afterEach(() => context.dispose())

const sample = { capability: 'a', ids: [1, 2, 3], completionStart: 1, completionTokens: 2 }
const open = (search?: string) => openCutRecords(context.dataFolder, 'ab', search)
const folder = () => join(context.dataFolder, 'derived', 'analyses')
const mark = async () => join(folder(), (await readdir(folder())).find(name => name.endsWith('.begin'))!)

/** A search that begins with one loss on record and measures another. */
async function measured() {
  await (await open()).add([{ cut: '0', sample, nll: 1 }])
  await (await open('job')).add([{ cut: '1', sample, nll: 2 }])
}

test('what a search measured is its own until another one begins, even where it had ended before it was killed', async () => {
  await measured()
  const again = await open('job')
  expect([again.get('0', sample), again.kept!('0', sample)]).toEqual([1, undefined])
  expect([again.get('1', sample), again.kept!('1', sample)]).toEqual([undefined, 2])
  const next = await open('next')
  expect([next.get('1', sample), next.kept!('1', sample)]).toEqual([2, undefined])
})

test.each(['', 'x', '-1', '1e9999', '999999'])('a mark %j says nothing: the search begins now', async text => {
  await measured()
  await writeFile(await mark(), text)
  const again = await open('job')
  expect([again.get('0', sample), again.kept!('0', sample)]).toEqual([1, undefined])
  expect([again.get('1', sample), again.kept!('1', sample)]).toEqual([2, undefined])
  expect(await readFile(await mark(), 'utf8')).toMatch(/^\d+$/)
  expect((await readdir(folder())).filter(name => name.endsWith('.tmp'))).toEqual([])
})
