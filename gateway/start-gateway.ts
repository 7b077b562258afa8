// Puts the gateway together: platform or remote subgraphs, graph, port. What main.ts runs and tests start in their own process.
import type { Env } from '../lib/env.js'
import { DomainError } from '../lib/errors.js'
import { toGlobalId } from '../lib/ids.js'
import type { Logger } from '../lib/log.js'
import { startGraphqlGateway } from './graphql-gateway.js'
import { localDataSource } from './local-data-source.js'
import { gatewayMetrics } from './metrics.js'
import { type RequestContext, type RunningPlatform, startPlatform } from './platform.js'
import { remoteDataSource } from './remote-data-source.js'
import { startServer } from './server.js'
import type { SubgraphSource } from './source.js'
import { subgraphs } from './subgraphs.js'
import { loadSupergraph, subgraphNames } from './supergraph.js'

export interface RunningGateway {
  url: string
  platform: RunningPlatform
  /** Drains: readiness goes, streams end, running requests end, jobs go back to the queue. About ten seconds at most. */
  stop(): Promise<void>
}

/** Time that running jobs get to end before they go back to the queue. */
const jobGraceMs = 3_000

/** @throws BAD_USER_INPUT where the environment asks for what is not there, DATA_FOLDER_IN_USE, and the operating system's own errors */
export async function startGateway(env: Env, log: Logger): Promise<RunningGateway> {
  if (env.HARTONOMOUS_MODE === 'cluster')
    throw new DomainError(
      'BAD_USER_INPUT',
      'HARTONOMOUS_MODE=cluster is not built yet: use embedded, with HARTONOMOUS_SUBGRAPHS for subgraphs in processes of their own',
    )
  const platform = await startPlatform(env, log)
  try {
    const metrics = gatewayMetrics(platform.gauges)
    const supergraphSdl = loadSupergraph()
    const sources = sourcesOf(subgraphNames(supergraphSdl), env, log)
    const gateway = await startGraphqlGateway<RequestContext>({
      supergraphSdl,
      sources,
      log,
      observe: metrics.observe,
    })
    const server = await startServer<RequestContext>(
      { host: env.HOST, port: env.PORT },
      {
        gateway,
        metrics,
        log,
        dataFolder: env.HARTONOMOUS_DATA,
        newContext: signal => platform.newContext(signal),
        async checkReady() {
          await platform.checkReady()
          await Promise.all([...sources.values()].map(source => source.ping()))
        },
        async finishedExport(jobId) {
          const query = 'query($id: ID!) { job(id: $id) { type state output } }'
          const id = toGlobalId('Job', jobId)
          const outcome = await gateway.operate({ query, variables: { id } }, () => platform.newContext())
          const job = outcome.kind === 'answer' ? (outcome.answer.data?.job as ExportJob | null | undefined) : undefined
          return job?.state === 'SUCCEEDED' ? job.output?.files : undefined
        },
      },
    )
    return {
      url: server.url,
      platform,
      async stop() {
        // The pool first hears of it: a request that waits for a job (generate) ends when the job does.
        await Promise.all([server.drain(), platform.queue.stop(jobGraceMs)])
        await gateway.stop()
        await platform.stop()
      },
    }
  } catch (error) {
    await platform.stop(0)
    throw error
  }
}

/** In this process, or where HARTONOMOUS_SUBGRAPHS says. */
function sourcesOf(names: string[], env: Env, log: Logger): Map<string, SubgraphSource<RequestContext>> {
  for (const name of env.HARTONOMOUS_SUBGRAPHS.keys())
    if (!names.includes(name))
      throw new DomainError('BAD_USER_INPUT', `HARTONOMOUS_SUBGRAPHS names ${name}; there are ${names.join(', ')}`)
  return new Map(
    names.map(name => {
      const url = env.HARTONOMOUS_SUBGRAPHS.get(name)
      if (url) return [name, remoteDataSource<RequestContext>(name, url, { log })]
      const local = subgraphs.find(s => s.name === name)
      if (!local)
        throw new Error(`The supergraph has a subgraph ${name} that gateway/subgraphs.ts lacks: npm run schema`)
      return [name, localDataSource<RequestContext>(local.schema, log)]
    }),
  )
}

interface ExportJob {
  state: string
  output: { files?: { path: string; sha256: string }[] } | null
}
