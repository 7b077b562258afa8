// What a subgraph is to whoever runs it: the gateway's process, its own process, or the composition.
import type { GraphQLSchema } from 'graphql'
import type { JobEffects, Platform } from './platform.js'

export interface Subgraph {
  /** Name in the supergraph; also the name of `schema/<name>.graphql`. */
  name: string
  schema: GraphQLSchema
  sdl: string
  /** What this subgraph does when jobs of its types are claimed or end; each job type has one owner. */
  effects: JobEffects
  /** Runs once before requests are served (fills tables, starts schedules). */
  start?(platform: Platform): Promise<void>
}
