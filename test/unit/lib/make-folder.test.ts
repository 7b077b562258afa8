// Folders with their parents, and what cannot be one.
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { makeFolder } from '../../../lib/make-folder.js'

const root = mkdtempSync(join(tmpdir(), 'hartonomous-folder-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))

test('parents are created, and a second call changes nothing', () => {
  makeFolder(join(root, 'a', 'b'))
  makeFolder(join(root, 'a', 'b'))
  expect(existsSync(join(root, 'a', 'b'))).toBe(true)
})

test('a file of that name, or among the parents, is an error', () => {
  const file = join(root, 'file')
  writeFileSync(file, '')
  expect(() => makeFolder(file)).toThrow('EEXIST')
  expect(() => makeFolder(join(file, 'below'))).toThrow('ENOTDIR')
})

test.skipIf(!existsSync('/proc/self'))(
  'a file system that takes no folders is an error, not a wait without end',
  () => {
    expect(() => makeFolder('/proc/none/below')).toThrow('ENOENT')
  },
)
