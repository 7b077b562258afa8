// What one command works with: a client of the platform that answers at --url, or of one started for the command's own duration.
import { resolve } from 'node:path'
import { isReady, launchPlatform } from '../lib/client/launch-platform.js'
import {
  ConnectionLostError,
  connectPlatform,
  type PlatformClient,
  PlatformError,
} from '../lib/client/platform-client.js'
import type { ProgressView } from '../lib/client/watch-job.js'
import { readEnv } from '../lib/env.js'
import { idCell, shortIds } from './short-id.js'

export interface GlobalOptions {
  url?: string
  json?: boolean
  ids?: boolean
}

export interface Session {
  client: PlatformClient
  json: boolean
  /** Where a server of this machine is, or would be: `http://127.0.0.1:4000`. */
  address: string
  /** True where the platform lives only as long as this command. */
  ownPlatform: boolean
  /** Tables show whole ids. */
  ids: boolean
  /** The job that an interrupt should speak of, and the bar that is to be gone before. */
  job?: string | undefined
  view?: ProgressView | undefined
}

export const note = (text: string) => process.stderr.write(`${text}\n`)

/** What to say when a person interrupts while a job runs: the job goes on. */
export function interruptMessage(session: Pick<Session, 'job' | 'ids' | 'ownPlatform'>): string {
  if (!session.job) return 'Interrupted.'
  const where = session.ownPlatform
    ? 'It goes on when a platform next runs on this data folder (`npm start`)'
    : 'It goes on in the platform'
  const job = idCell(session, session.job)
  return `Interrupted. Job ${job} is not cancelled. ${where}; watch it with \`hartonomous watch ${job}\`, cancel it with \`hartonomous cancel ${job}\`.`
}

/**
 * Runs `work` against the platform and returns the exit code: the number `work` ends with, if it is one, or 0; 1 where it throws.
 * With no --url and no server at the default address, an embedded platform is started and stopped again, and the command says so.
 */
export async function withSession(
  options: GlobalOptions,
  work: (session: Session) => Promise<unknown>,
): Promise<number> {
  let session: Session | undefined
  let stop: (() => Promise<void>) | undefined
  let stopped: Promise<void> | undefined
  const finish = () => {
    stopped ??= (async () => {
      session?.view?.end()
      await session?.client.close()
      await stop?.()
    })()
    return stopped
  }
  let interrupts = 0
  const interrupted = new Promise<number>(done => {
    const interrupt = (code: number) => {
      // A second one ends at once, and so does one before there is anything to tell; an embedded platform goes with this process.
      if (interrupts++ || !session) process.exit(code)
      session.view?.end()
      note(`\n${interruptMessage(session)}`)
      finish().then(
        () => done(code),
        () => done(code),
      )
    }
    process.on('SIGINT', () => interrupt(130))
    process.on('SIGTERM', () => interrupt(143))
  })
  const finished = (async () => {
    try {
      ;({ session, stop } = await openSession(options))
      const code = await work(session)
      if (!interrupts) await finish()
      return typeof code === 'number' ? code : 0
    } catch (error) {
      // What an interrupt does to the command is no failure of it.
      if (interrupts) return interrupted
      session?.view?.end()
      note(options.ids ? explain(error, session) : shortIds(explain(error, session)))
      await finish()
      return 1
    }
  })()
  return Promise.race([finished, interrupted])
}

async function openSession(options: GlobalOptions): Promise<{ session: Session; stop?: () => Promise<void> }> {
  const env = readEnv()
  const address = options.url ?? `http://${env.HOST}:${env.PORT}`
  const shown = { json: options.json ?? false, ids: options.ids ?? false, address }
  if (options.url || (await isReady(address)))
    return { session: { client: connectPlatform(address), ownPlatform: false, ...shown } }
  const folder = resolve(env.HARTONOMOUS_DATA)
  note(`No server at ${address}: running an embedded platform on ${folder} for this command.`)
  const { url, stop } = await launchPlatform(folder)
  return { session: { client: connectPlatform(url), ownPlatform: true, ...shown }, stop }
}

function explain(error: unknown, session?: Session): string {
  if (error instanceof PlatformError) return `Failed [${error.code}]: ${error.message}`
  if (error instanceof ConnectionLostError) {
    const what = error.serverStopping
      ? 'the server is stopping'
      : `the connection to the server is lost (${error.message})`
    const job = session?.job
    return job
      ? `Failed: ${what}; the job goes on when it is back; watch it with \`hartonomous watch ${job}\`.`
      : `Failed: ${what}.`
  }
  if (error instanceof TypeError && error.message === 'fetch failed')
    return `Failed: no platform answers at this address (${String((error.cause as Error | undefined)?.message ?? '')}). Start one with \`npm start\`.`
  return `Failed: ${error instanceof Error ? error.message : JSON.stringify(error)}`
}
