// The explorer: GraphiQL as one page that needs nothing from elsewhere, so that it opens offline.
import { createHash } from 'node:crypto'
import { promisify } from 'node:util'
import { gzip } from 'node:zlib'
import { renderGraphiQL } from '@graphql-yoga/render-graphiql'

export interface ExplorerPage {
  /** gzip, 2.4 MB of 9. */
  compressed: Buffer
  html: string
  headers: Record<string, string>
}

const firstQuery = `# Hartonomous: models go in, students come out. Press play.
query Overview {
  models(first: 10) {
    totalCount
    nodes {
      id
      name
      architecture
      parameterCount
      layerCount
      isStudent
    }
  }
}

# Watches everything the pool does. Choose it at the play button.
subscription Jobs {
  jobsChanged {
    id
    type
    state
    progress {
      stage
      completed
      total
      unit
    }
  }
}
`

/** Renders the page (9 MB, some 0.3 s to compress): once per process. */
export async function explorerPage(): Promise<ExplorerPage> {
  const html = renderGraphiQL({
    title: 'Hartonomous explorer',
    endpoint: '/graphql',
    subscriptionsProtocol: 'WS',
    defaultQuery: firstQuery,
  } as Parameters<typeof renderGraphiQL>[0])
  const scripts = [...html.matchAll(/<script>([\s\S]*?)<\/script>/g)].map(
    ([, text]) => `'sha256-${createHash('sha256').update(text!).digest('base64')}'`,
  )
  const policy = [
    "default-src 'none'",
    `script-src ${scripts.join(' ')} blob:`,
    'worker-src blob:',
    "style-src 'unsafe-inline'",
    "img-src 'self' data:",
    'font-src data:',
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; ')
  return {
    html,
    compressed: await promisify(gzip)(html),
    headers: {
      'content-type': 'text/html; charset=utf-8',
      'content-security-policy': policy,
      'x-content-type-options': 'nosniff',
      'referrer-policy': 'no-referrer',
      'cache-control': 'no-cache',
      vary: 'accept, accept-encoding',
    },
  }
}
