// `npm run bench -- NAME [--json] [arguments]`: runs bench/NAME and prints what it measured; it measures and never asserts.
import { readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** What every bench exports. `args`: the command line after NAME, without --json. The figures are the result, units in their names. */
export type Bench = (args: string[]) => Promise<Record<string, unknown>>

const folder = dirname(fileURLToPath(import.meta.url))
const print = (line: string) => process.stdout.write(`${line}\n`)

const names = () =>
  readdirSync(folder)
    .filter(file => file.endsWith('.js') && file !== 'main.js')
    .map(file => file.slice(0, -3))
    .sort()

async function main([name, ...rest]: string[]): Promise<number> {
  if (!name || !names().includes(name)) {
    const reason = name ? `There is no bench "${name}". ` : ''
    process.stderr.write(`${reason}npm run bench -- NAME [--json], NAME is one of: ${names().join(', ')}\n`)
    return 2
  }
  const { run } = (await import(join(folder, `${name}.js`))) as { run: Bench }
  const figures = await run(rest.filter(a => a !== '--json'))
  if (!rest.includes('--json')) {
    const width = Math.max(...Object.keys(figures).map(k => k.length))
    for (const [figure, value] of Object.entries(figures))
      print(`${figure.padEnd(width)}  ${typeof value === 'object' ? JSON.stringify(value) : value}`)
  } else print(JSON.stringify({ bench: name, ...figures }))
  return 0
}

process.env.APOLLO_TELEMETRY_DISABLED = 'true'
// Workers and sockets that a bench left open must not keep the command from ending.
process.exit(await main(process.argv.slice(2)))
