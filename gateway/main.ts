// `npm start`: serves until SIGTERM or SIGINT, then drains; a second signal ends at once.
import { readEnv } from '../lib/env.js'
import { isDomainError } from '../lib/errors.js'
import { makeLogger } from '../lib/log.js'

// Apollo's gateway would report to its maker every hour; it reads this when it is loaded.
process.env.APOLLO_TELEMETRY_DISABLED = 'true'

/** A little over what draining takes: requests 8 s, jobs 3 s. */
const stopLimitMs = 10_000

function fail(message: string): never {
  process.stderr.write(`${message}\n`)
  process.exit(1)
}

/** One sentence for what people meet; undefined for bugs. */
function startFailure(error: unknown, address: string): string | undefined {
  if (isDomainError(error)) return error.message
  const code = (error as NodeJS.ErrnoException).code
  if (code === 'EADDRINUSE') return `Something else serves on ${address} already: stop it, or choose another PORT`
  if (code === 'EACCES') return `No permission to serve on ${address} or to write to the data folder: ${String(error)}`
  if (code === 'ENOENT' && (error as NodeJS.ErrnoException).syscall === 'mkdir')
    return `HARTONOMOUS_DATA cannot be created: ${String(error)}`
  if (code === 'EEXIST' || code === 'ENOTDIR') return `HARTONOMOUS_DATA is not a folder: ${String(error)}`
  if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND') return `HOST is not an address of this machine: ${address}`
  return undefined
}

async function main(): Promise<void> {
  const env = readEnvOrFail()
  const log = makeLogger('gateway', env.LOG_LEVEL)
  const { startGateway } = await import('./start-gateway.js')
  const gateway = await startGateway(env, log).catch((error: unknown) => {
    const sentence = startFailure(error, `${env.HOST}:${env.PORT}`)
    if (!sentence) log.fatal({ err: error }, 'could not start')
    return fail(sentence ?? `Could not start: ${error instanceof Error ? error.message : String(error)}`)
  })
  process.stdout.write(
    `Hartonomous serves ${gateway.url}/graphql (explorer, queries, subscriptions); data in ${env.HARTONOMOUS_DATA}\n`,
  )

  let stoppingSince = 0
  const stop = (signal: NodeJS.Signals) => {
    // Terminals signal the whole group and npm passes its own signal on: two at once are one wish.
    if (stoppingSince) return Date.now() - stoppingSince > 500 && process.exit(1)
    stoppingSince = Date.now()
    log.info({ signal }, 'stopping')
    setTimeout(() => {
      log.warn('still busy after ten seconds, ending anyway')
      process.exit(1)
    }, stopLimitMs).unref()
    gateway.stop().then(
      () => process.exit(0),
      error => {
        log.error({ err: error }, 'stopping failed')
        process.exit(1)
      },
    )
  }
  process.on('SIGTERM', stop)
  process.on('SIGINT', stop)
}

function readEnvOrFail() {
  try {
    return readEnv()
  } catch (error) {
    return fail(error instanceof Error ? error.message : String(error))
  }
}

await main()
