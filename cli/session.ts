// What one command works with: a client of the platform that answers at --url, or of one started for the command's own duration.
import { resolve } from 'node:path'
import { isReady, launchPlatform } from '../lib/client/launch-platform.js'
import { connectPlatform, type PlatformClient, PlatformError } from '../lib/client/platform-client.js'
import { readEnv } from '../lib/env.js'

export interface GlobalOptions {
  url?: string
  json?: boolean
}

export interface Session {
  client: PlatformClient
  json: boolean
  /** True where the platform lives only as long as this command. */
  ownPlatform: boolean
  /** The job that an interrupt should speak of. */
  job?: string
}

const note = (text: string) => process.stderr.write(`${text}\n`)

/** What to say when a person interrupts while a job runs: the job goes on. */
export function interruptMessage(session: Session): string {
  if (!session.job) return 'Interrupted.'
  const where = session.ownPlatform
    ? 'It goes on when a platform next runs on this data folder (`npm start`)'
    : 'It goes on in the platform'
  return `Interrupted. Job ${session.job} is not cancelled. ${where}; watch it with \`hartonomous watch ${session.job}\`, cancel it with \`hartonomous cancel ${session.job}\`.`
}

/**
 * Runs `work` against the platform and returns the exit code.
 * With no --url and no server at the default address, an embedded platform is started and stopped again, and the command says so.
 */
export async function withSession(
  options: GlobalOptions,
  work: (session: Session) => Promise<unknown>,
): Promise<number> {
  const env = readEnv()
  const address = options.url ?? `http://${env.HOST}:${env.PORT}`
  let stop: (() => Promise<void>) | undefined
  let session: Session
  if (options.url || (await isReady(address))) {
    session = { client: connectPlatform(address), json: options.json ?? false, ownPlatform: false }
  } else {
    const folder = resolve(env.HARTONOMOUS_DATA)
    note(`No server at ${address}: running an embedded platform on ${folder} for this command.`)
    const launched = await launchPlatform(folder)
    stop = launched.stop
    session = { client: connectPlatform(launched.url), json: options.json ?? false, ownPlatform: true }
  }

  const finish = async () => {
    await session.client.close()
    await stop?.()
  }
  const interrupted = new Promise<number>(done => {
    process.once('SIGINT', () => {
      note(`\n${interruptMessage(session)}`)
      void finish().finally(() => done(130))
    })
  })
  const finished = work(session)
    .then(() => 0)
    .catch((error: unknown) => {
      note(explain(error))
      return 1
    })
    .then(async code => {
      await finish()
      return code
    })
  return Promise.race([finished, interrupted])
}

function explain(error: unknown): string {
  if (error instanceof PlatformError) return `Failed [${error.code}]: ${error.message}`
  if (error instanceof TypeError && error.message === 'fetch failed')
    return `Failed: no platform answers at this address (${String((error.cause as Error | undefined)?.message ?? '')}). Start one with \`npm start\`.`
  return `Failed: ${error instanceof Error ? error.message : JSON.stringify(error)}`
}
