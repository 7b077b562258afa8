// Writes docs/errors.md from the one error table: `npm run docs`; a test fails where the page is older than the table.
import { writeFileSync } from 'node:fs'
import { errorTable } from '../lib/errors.js'
import { projectFile } from '../lib/project.js'

/** The page as Markdown. */
export function errorsPage(): string {
  const rows = Object.entries(errorTable).map(([code, e]) => `| \`${code}\` | ${e.http} | ${e.sentence} |`)
  return [
    '# Error codes',
    '',
    'Generated from `lib/errors.ts` by `npm run docs`. A code appears in `userErrors { code }` of a mutation, in `extensions.code` of a',
    'GraphQL error, and in `job { error { code } }` of a failed job. The message beside it names the thing and the number.',
    '',
    '| code | HTTP meaning | sentence |',
    '|---|---|---|',
    ...rows,
    '',
  ].join('\n')
}

if (process.argv[1]?.endsWith('write-docs.js')) writeFileSync(projectFile('docs', 'errors.md'), errorsPage())
