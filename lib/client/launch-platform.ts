// Starts an embedded platform as a child process on a free port, for a command or a demo that needs one for its own duration.
import { spawn } from 'node:child_process'
import { createServer } from 'node:net'
import { compiledFile } from '../project.js'

export interface LaunchedPlatform {
  url: string
  pid: number
  dataFolder: string
  /** Asks it to stop and waits; whatever is still running goes back to the queue. */
  stop(): Promise<void>
}

const freePort = () =>
  new Promise<number>((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() =>
        address && typeof address === 'object' ? resolve(address.port) : reject(new Error('no free port')),
      )
    })
  })

const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

/** Whether a platform answers at this address. */
export async function isReady(url: string): Promise<boolean> {
  try {
    return (await fetch(`${url}/readyz`, { signal: AbortSignal.timeout(2000) })).ok
  } catch {
    return false
  }
}

/** What the platform said last for people: its log lines are JSON. */
function lastWords(output: string): string {
  const sentence = output
    .split('\n')
    .filter(line => line.trim() && !/^(\{| +at )/.test(line))
    .at(-1)
  return sentence?.trim().slice(0, 600) || output.trim().slice(-600) || 'it printed nothing'
}

/**
 * @param env variables added to this process's own
 * @throws Error with the child's last sentence where it does not become ready within `seconds`
 */
export async function launchPlatform(
  dataFolder: string,
  env: Record<string, string> = {},
  seconds = 60,
): Promise<LaunchedPlatform> {
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`
  const child = spawn(process.execPath, [compiledFile('gateway/main.js')], {
    // Its own process group: an interrupt at the terminal reaches us first, and we stop it in order.
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      LOG_LEVEL: 'warn',
      ...process.env,
      ...env,
      PORT: String(port),
      HOST: '127.0.0.1',
      HARTONOMOUS_DATA: dataFolder,
    },
  })
  let output = ''
  const keep = (chunk: Buffer) => {
    output = (output + chunk.toString()).slice(-4000)
  }
  child.stdout.on('data', keep)
  child.stderr.on('data', keep)
  const exited = new Promise<void>(resolve => child.once('exit', () => resolve()))
  const killOnExit = () => child.kill('SIGKILL')
  process.once('exit', killOnExit)

  const deadline = Date.now() + seconds * 1000
  while (!(await isReady(url))) {
    if (child.exitCode !== null || child.signalCode !== null || Date.now() > deadline) {
      child.kill('SIGKILL')
      process.off('exit', killOnExit)
      throw new Error(`The platform did not start: ${lastWords(output)}`)
    }
    await pause(100)
  }
  return {
    url,
    dataFolder,
    pid: child.pid ?? 0,
    async stop() {
      process.off('exit', killOnExit)
      child.kill('SIGTERM')
      const patience = setTimeout(() => child.kill('SIGKILL'), 15_000)
      await exited
      clearTimeout(patience)
    },
  }
}
