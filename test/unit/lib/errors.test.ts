// The error page is what the error table says.
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { projectFile } from '../../../lib/project.js'
import { errorsPage } from '../../../scripts/write-docs.js'

test('docs/errors.md is generated from the table as it is now (npm run docs)', () => {
  expect(readFileSync(projectFile('docs', 'errors.md'), 'utf8')).toBe(errorsPage())
})
