// The product's own probe set, read from probes/: the taxonomy with its texts, and the pairs in their stored form.
import { readFile } from 'node:fs/promises'
import { z } from 'zod'
import { projectFile } from '../../lib/project.js'
import type { CapabilityNode } from './taxonomy.service.js'

const branch = z.object({ slug: z.string(), name: z.string(), description: z.string() })
const taxonomySchema = z.array(branch.extend({ children: z.array(branch) }))
const sampleSchema = z.object({
  task: z.string(),
  subtask: z.string(),
  split: z.enum(['probe', 'validation']),
  prompt: z.string().min(1),
  completion: z.string().min(1),
})

export interface SampleCount {
  slug: string
  probe: number
  validation: number
}

export interface BuiltInProbes {
  capabilities: CapabilityNode[]
  /** One JSON object per line with its fields in a fixed order: equal content has equal bytes. */
  jsonl: string
  counts: SampleCount[]
}

/** @param folder default: `probes/` of the project */
export async function readBuiltInProbes(folder = projectFile('probes')): Promise<BuiltInProbes> {
  const read = (name: string) => readFile(`${folder}/${name}`, 'utf8')
  const taxonomy = taxonomySchema.parse(JSON.parse(await read('taxonomy.json')))
  const capabilities = taxonomy.flatMap(({ children, ...top }) => [
    top,
    ...children.map(child => ({ ...child, slug: `${top.slug}/${child.slug}` })),
  ])
  const files = await Promise.all(taxonomy.map(({ slug }) => read(`${slug}.jsonl`)))
  const samples = files
    .flatMap(text => text.split('\n').filter(line => line.trim()))
    .map(line => sampleSchema.parse(JSON.parse(line)))
  return {
    capabilities,
    jsonl: samples.map(sample => `${JSON.stringify(sample)}\n`).join(''),
    counts: countSamples(samples),
  }
}

function countSamples(samples: readonly z.output<typeof sampleSchema>[]): SampleCount[] {
  const counts = new Map<string, SampleCount>()
  for (const { task, subtask, split } of samples) {
    const slug = `${task}/${subtask}`
    const count = counts.get(slug) ?? { slug, probe: 0, validation: 0 }
    count[split]++
    counts.set(slug, count)
  }
  return [...counts.values()]
}
