// The pairs that reference numbers were made on, and the numbers.
import { readFile } from 'node:fs/promises'
import { assignSplits, type ProbeSample, readProbeLines, type Split } from '../../compute/probing/probe-set.js'
import { sharedFile } from './shared-files.js'

/** All lines of one split, in file order: reference files count them from 0. */
export async function referenceProbes(split: Split): Promise<ProbeSample[]> {
  const lines = await readProbeLines([await readFile(sharedFile('data', 'probes', `${split}.jsonl`))])
  return assignSplits(lines.map(line => ({ ...line, split })))
}

export const referenceNumbers = async <T>(name: string): Promise<T> =>
  JSON.parse(await readFile(sharedFile('reference', name), 'utf8')) as T
