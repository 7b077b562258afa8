// The list of subgraphs, in the order of the composed schema: what the embedded gateway serves and what schema/ composes.
import type { Subgraph } from '../subgraphs/build/subgraph.js'
import { subgraph as compute } from '../subgraphs/compute/subgraph.js'
import { subgraph as evaluation } from '../subgraphs/evaluation/subgraph.js'
import { subgraph as models } from '../subgraphs/models/subgraph.js'
import { subgraph as node } from '../subgraphs/node/subgraph.js'
import { subgraph as students } from '../subgraphs/students/subgraph.js'
import { subgraph as taxonomy } from '../subgraphs/taxonomy/subgraph.js'

export const subgraphs: Subgraph[] = [models, compute, taxonomy, students, evaluation, node]
