// Names and ids on the command line.
import { afterEach, expect, test, vi } from 'vitest'
import { choose } from '../../../cli/find.js'
import { interruptMessage } from '../../../cli/session.js'
import { shortId, shortIds } from '../../../cli/short-id.js'
import { toGlobalId } from '../../../lib/ids.js'

const rowId = (end: string) => `01a21537-84a7-7783-9357-5371${end}`
const [a, b, c] = ['aaaaaaaa', 'bbbbbbbb', 'cccccccc'].map(end => toGlobalId('Recipe', rowId(end))) as [
  string,
  string,
  string,
]
const createdAt = '2026-11-26T00:00:00.000Z'
/** Newest first. */
const recipes = [
  { id: a, name: 'cut', status: 'PROPOSED', createdAt },
  { id: b, name: 'cut', status: 'APPROVED', createdAt },
  { id: c, name: 'cut', status: 'APPROVED', createdAt },
]

let said = ''
const hear = () => {
  said = ''
  vi.spyOn(process.stderr, 'write').mockImplementation(text => {
    said += String(text)
    return true
  })
}
afterEach(() => vi.restoreAllMocks())

test('of several recipes of one name the newest that the command can act on is meant, and said', () => {
  hear()
  expect(choose({ ids: false }, 'recipe', 'cut', recipes, ['APPROVED']).id).toBe(b)
  expect(said).toContain('taking the newest that is APPROVED, bbbbbbbb; the others')
  expect(said).toMatch(/aaaaaaaa {2}PROPOSED/)
  expect(said).not.toContain('  bbbbbbbb')
  expect(choose({ ids: false }, 'recipe', 'cut', recipes, ['PROPOSED', 'FAILED']).id).toBe(a)
})

test('the newest is meant where the command can act on none, or on all', () => {
  hear()
  expect(choose({ ids: false }, 'recipe', 'cut', recipes, ['FAILED']).id).toBe(a)
  expect(choose({ ids: true }, 'recipe', 'cut', recipes).id).toBe(a)
  expect(said).toContain(`taking the newest, ${a}`)
})

test('an id is meant whatever its status', () => {
  hear()
  expect(choose({ ids: false }, 'recipe', 'cccccccc', recipes, ['PROPOSED']).id).toBe(c)
  expect(said).toBe('')
  expect(() => choose({ ids: false }, 'recipe', 'nothing', recipes)).toThrow('No recipe has the id or name "nothing"')
})

test('sentences name ids by their ends, paths and hashes stay', () => {
  expect(shortId(a)).toBe('aaaaaaaa')
  expect(shortIds(`Job ${a} is not cancelled`)).toBe('Job aaaaaaaa is not cancelled')
  expect(shortIds(`Job ${rowId('bbbbbbbb')} is FAILED`)).toBe('Job bbbbbbbb is FAILED')
  for (const text of [`/exports/${rowId('bbbbbbbb')}/model.gguf`, 'f'.repeat(64)]) expect(shortIds(text)).toBe(text)
})

test('an interrupt names the job by the end of its id', () => {
  const job = toGlobalId('Job', rowId('dddddddd'))
  const message = (ids: boolean) => interruptMessage({ job, ids, ownPlatform: false })
  expect(message(false)).toContain('`hartonomous watch dddddddd`')
  expect(message(false)).not.toContain(job)
  expect(message(true)).toContain(job)
})
