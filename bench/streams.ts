// `npm run bench -- streams [model]`: a thousand streams over eight generations through the gateway, some of them not read: what arrives, how late, and
// the server's memory meanwhile. The platform runs as a process of its own, the readers are here. Its heap is limited to `--heap 400` MB (0: not):
// V8 collects what nobody needs when it comes near its limit, by default some GB, so that only a limit shows what is really held.
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import WebSocket from 'ws'
import { launchPlatform } from '../lib/client/launch-platform.js'
import { connectPlatform, type PlatformClient } from '../lib/client/platform-client.js'
import { projectFile } from '../lib/project.js'

interface Event {
  job: { id: string }
  textDelta: string
  offset: number
  tokenIds: number[]
  index: number
  finishReason: string | null
}
interface Reader {
  generation: number
  jobId: string | undefined
  tokens: number[]
  characters: number
  events: number
  /** Events that did not go on where the one before ended. */
  wrong: number
  endedAt: number | undefined
  failure: string | undefined
}

const fields = 'job { id } textDelta offset tokenIds index finishReason'
const start = `subscription($input: GenerateInput!) { generateStream(input: $input) { ${fields} } }`
const watch = `subscription($jobId: ID!) { watchGeneration(jobId: $jobId) { ${fields} } }`
const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))
const quantile = (list: number[], q: number) => [...list].sort((a, b) => a - b)[Math.floor(q * (list.length - 1))]!

async function connect(
  url: string,
): Promise<{ socket: WebSocket; open(query: string, variables: object, reader: Reader): void }> {
  const socket = new WebSocket(`${url.replace('http', 'ws')}/graphql`, 'graphql-transport-ws')
  await once(socket, 'open')
  const readers = new Map<string, Reader>()
  socket.on('message', data => {
    const { type, id, payload } = JSON.parse(String(data))
    const reader = readers.get(id)
    if (!reader) return
    const error = type === 'error' ? payload[0] : payload?.errors?.[0]
    if (error) reader.failure = `${error.extensions?.code}: ${error.message}`
    if (type === 'next' && payload.data) take(reader, Object.values(payload.data)[0] as Event)
  })
  socket.on('close', code => {
    for (const reader of readers.values()) if (reader.endedAt === undefined) reader.failure ??= `closed with ${code}`
  })
  socket.on('error', () => {})
  socket.send(JSON.stringify({ type: 'connection_init' }))
  await once(socket, 'message')
  return {
    socket,
    open(query, variables, reader) {
      const id = String(readers.size)
      readers.set(id, reader)
      socket.send(JSON.stringify({ type: 'subscribe', id, payload: { query, variables } }))
    },
  }
}

function take(reader: Reader, event: Event) {
  reader.events++
  reader.jobId ??= event.job.id
  const last = event.finishReason !== null
  const first = last ? event.index - event.tokenIds.length : event.index + 1 - event.tokenIds.length
  if (first !== reader.tokens.length || event.offset !== reader.characters) reader.wrong++
  reader.tokens.push(...event.tokenIds)
  reader.characters += event.textDelta.length
  if (last) reader.endedAt = performance.now()
}

const residentBytes = async (pid: number) =>
  Number(/VmRSS:\s+(\d+)/.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024

export async function run(args: string[]): Promise<Record<string, unknown>> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      streams: { type: 'string', default: '1000' },
      generations: { type: 'string', default: '8' },
      stalled: { type: 'string', default: '8' },
      tokens: { type: 'string', default: '256' },
      heap: { type: 'string', default: '400' },
    },
  })
  const [streams, generations, stalled, tokens] = [
    values.streams,
    values.generations,
    values.stalled,
    values.tokens,
  ].map(Number) as [number, number, number, number]
  const dataFolder = await mkdtemp(join(tmpdir(), 'bench-streams-'))
  const limit = Number(values.heap) > 0 ? [`--max-old-space-size=${values.heap}`] : []
  const options = [process.env.NODE_OPTIONS, ...limit].filter(Boolean).join(' ')
  const platform = await launchPlatform(dataFolder, { NODE_OPTIONS: options })
  const client = connectPlatform(platform.url)
  try {
    const source =
      positionals[0] ?? projectFile('../shared/models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf')
    const ingest = await client.mutate<{ job: { id: string } }>(
      'mutation($input: IngestModelInput!) { ingestModel(input: $input) { job { id } userErrors { code message } } }',
      { source },
    )
    for await (const { state } of client.subscribe<{ state: string }>(
      'subscription($id: ID!) { jobProgress(id: $id) { state } }',
      { id: ingest.job.id },
    ))
      if (state === 'FAILED') throw new Error('The model could not be ingested')
    const { models } = await client.query<{ models: { nodes: { id: string }[] } }>(
      '{ models(first: 1) { nodes { id } } }',
    )
    const modelId = models.nodes[0]!.id
    const input = (g: number, maxTokens: number) => ({
      modelId,
      prompt: `Chapter ${g + 1}. Once upon a time`,
      maxTokens,
      temperature: 1,
      seed: g,
    })
    // The model is open and warm.
    await client.query('mutation($input: GenerateInput!) { generate(input: $input) { text } }', { input: input(0, 4) })

    const sockets = await Promise.all(Array.from({ length: Math.ceil(streams / 25) }, () => connect(platform.url)))
    const before = await residentBytes(platform.pid)
    const memory: { at: number; bytes: number }[] = []
    const begun = performance.now()
    const sampling = setInterval(
      () => void residentBytes(platform.pid).then(bytes => memory.push({ at: performance.now() - begun, bytes })),
      500,
    )

    const starters = Array.from({ length: generations }, (_, g) => {
      const reader = makeReader(g)
      sockets[g % sockets.length]!.open(start, { input: input(g, tokens) }, reader)
      return reader
    })
    while (starters.some(r => r.jobId === undefined && r.failure === undefined)) await pause(5)
    const idle: Reader[] = []
    for (let i = 0; i < stalled; i++) {
      const reader = makeReader(i % generations)
      const { socket, open } = await connect(platform.url)
      open(watch, { jobId: starters[reader.generation]!.jobId }, reader)
      idle.push(reader)
      // Reads its first event, then nothing more for the whole time.
      const wait = setInterval(() => {
        if (reader.events === 0) return
        socket.pause()
        clearInterval(wait)
      }, 5)
    }
    const watchers = Array.from({ length: streams - generations }, (_, i) => {
      const reader = makeReader(i % generations)
      sockets[i % sockets.length]!.open(watch, { jobId: starters[reader.generation]!.jobId }, reader)
      return reader
    })
    const readers = [...starters, ...watchers]
    while (readers.some(r => r.endedAt === undefined && r.failure === undefined)) await pause(20)
    const seconds = (performance.now() - begun) / 1000
    clearInterval(sampling)

    const generated = await Promise.all(starters.map(r => outputOf(client, r.jobId!)))
    const complete = readers.filter(r => JSON.stringify(r.tokens) === JSON.stringify(generated[r.generation])).length
    const lags = watchers.map(r => ((r.endedAt ?? Number.NaN) - starters[r.generation]!.endedAt!) / 1000)
    // Once all streams are attached the memory should not grow any more.
    const half = memory.filter(m => m.at > (seconds * 1000) / 2).map(m => m.bytes / 1e6)
    const firstHalf = memory.filter(m => m.at <= (seconds * 1000) / 2).map(m => m.bytes / 1e6)
    const made = generated.reduce((sum, ids) => sum + ids.length, 0)
    return {
      streams: readers.length,
      generations,
      stalledReaders: idle.length,
      seconds,
      tokensMade: made,
      tokensMadePerSecond: made / seconds,
      tokensDelivered: readers.reduce((sum, r) => sum + r.tokens.length, 0),
      streamsComplete: complete,
      streamsFailed: readers.filter(r => r.failure).length,
      eventsOutOfPlace: readers.reduce((sum, r) => sum + r.wrong, 0),
      eventsPerStreamMedian: quantile(
        readers.map(r => r.events),
        0.5,
      ),
      lagSecondsMedian: quantile(lags, 0.5),
      lagSecondsWorst: quantile(lags, 1),
      stalledEvents: Math.max(...idle.map(r => r.events)),
      serverMegabytesBefore: before / 1e6,
      serverMegabytesFirstHalfPeak: Math.max(...firstHalf),
      serverMegabytesSecondHalfPeak: Math.max(...half),
      serverMegabytesAtEnd: memory.at(-1)!.bytes / 1e6,
    }
  } finally {
    await client.close()
    await platform.stop()
    await rm(dataFolder, { recursive: true, force: true })
  }
}

const makeReader = (generation: number): Reader => ({
  generation,
  jobId: undefined,
  tokens: [],
  characters: 0,
  events: 0,
  wrong: 0,
  endedAt: undefined,
  failure: undefined,
})

/** The tokens that the job says it made. */
async function outputOf(client: PlatformClient, id: string): Promise<number[]> {
  const { job } = await client.query<{ job: { output: { tokenIds: number[] } } }>(
    'query($id: ID!) { job(id: $id) { output } }',
    { id },
  )
  return job.output.tokenIds
}
