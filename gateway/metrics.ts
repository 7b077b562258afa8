// What /metrics tells: requests, operations, streams, jobs, devices, and the process itself.
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { OperationObserver } from './graphql-gateway.js'

/** Counts that are read when somebody asks. */
export interface PlatformGauges {
  jobsByState(): Promise<Record<string, number>>
  devices(): { busy: boolean }[]
}

const seconds = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30, 120]

export function gatewayMetrics(platform?: PlatformGauges) {
  const registry = new Registry()
  const registers = [registry]
  collectDefaultMetrics({ register: registry })
  const http = new Histogram({
    name: 'hartonomous_http_request_duration_seconds',
    help: 'HTTP requests by route and status',
    labelNames: ['method', 'route', 'status'] as const,
    buckets: seconds,
    registers,
  })
  const operations = new Histogram({
    name: 'hartonomous_graphql_operation_duration_seconds',
    help: 'GraphQL operations by type and the code of their first error (OK where none); subscriptions count when they end',
    labelNames: ['operation', 'code'] as const,
    buckets: seconds,
    registers,
  })
  const subscriptions = new Gauge({
    name: 'hartonomous_subscriptions_open',
    help: 'Streams open now, by transport',
    labelNames: ['transport'] as const,
    registers,
  })
  const events = new Counter({
    name: 'hartonomous_subscriptions_total',
    help: 'Streams opened since start, by transport',
    labelNames: ['transport'] as const,
    registers,
  })
  if (platform) {
    new Gauge({
      name: 'hartonomous_jobs',
      help: 'Jobs by state',
      labelNames: ['state'] as const,
      registers,
      async collect() {
        this.reset()
        for (const [state, count] of Object.entries(await platform.jobsByState())) this.set({ state }, count)
      },
    })
    new Gauge({
      name: 'hartonomous_devices',
      help: 'Devices with a worker, by whether a job runs on them',
      labelNames: ['busy'] as const,
      registers,
      collect() {
        const busy = platform.devices().filter(d => d.busy).length
        this.set({ busy: 'true' }, busy)
        this.set({ busy: 'false' }, platform.devices().length - busy)
      },
    })
  }
  const observe: OperationObserver = event => {
    operations.observe({ operation: event.operation, code: event.code }, event.seconds)
  }
  return {
    registry,
    observe,
    request: (method: string, route: string, status: number, duration: number) =>
      http.observe({ method, route, status }, duration),
    streams: (transport: 'websocket' | 'sse') => ({
      opened() {
        subscriptions.inc({ transport })
        events.inc({ transport })
      },
      closed: () => subscriptions.dec({ transport }),
    }),
  }
}
