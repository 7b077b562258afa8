// Prints the SQL by which the entities differ from the migrated SQLite schema: the body of the next migration.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openWriter } from '../db/data-source.js'

const folder = mkdtempSync(join(tmpdir(), 'migration-'))
const ds = await openWriter(join(folder, 'platform.sqlite'))
const { upQueries } = await ds.driver.createSchemaBuilder().log()
process.stdout.write(upQueries.map(q => `\`${q.query}\`,\n`).join('') || 'entities and migrations agree\n')
await ds.destroy()
rmSync(folder, { recursive: true })
