// The evaluation subgraph as a process of its own: `PORT=4001 node dist/subgraphs/evaluation/main.js`.
import { runSubgraph } from '../build/serve.js'
import { subgraph } from './subgraph.js'

await runSubgraph(subgraph)
