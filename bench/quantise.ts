// bench quantise: SmolLM2-135M (the float32 values of its Q4_1 file) in 4 and 8 bits, calibrated and rounded to nearest, beside llama.cpp's
// own Q4_0, on held-out text: KL divergence, top-1 agreement, perplexity, bytes, tokens per second.
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs, promisify } from 'node:util'
import { ingestModel } from '../compute/handlers/ingest-model.js'
import { quantiseManifest } from '../compute/handlers/quantise-manifest.js'
import { compareManifests } from '../compute/handlers/quantise-report.js'
import { standaloneContext } from '../compute/handlers/standalone-context.js'
import { projectFile } from '../lib/project.js'
import { quantizationSchema } from '../lib/quantization.js'
import { scaledByActivations } from './kit/activation-scaling.js'
import { keptFigures } from './kit/kept-figures.js'
import { progressLines, say } from './kit/progress-lines.js'

const shared = (...parts: string[]) => projectFile('..', 'shared', ...parts)

/** Both splits as one probe set. */
async function probeSet(): Promise<Uint8Array> {
  const lines: string[] = []
  for (const split of ['probe', 'validation'])
    for (const line of (await readFile(shared('data', 'probes', `${split}.jsonl`), 'utf8')).split('\n'))
      if (line.trim()) lines.push(JSON.stringify({ ...JSON.parse(line), split }))
  return Buffer.from(lines.join('\n'))
}

const scaledName = 'INT4 scaled by activations'
const variants: Record<string, Record<string, unknown>> = {
  'INT4 calibrated': { type: 'INT4' },
  'INT4 nearest': { type: 'INT4', method: 'ROUND_TO_NEAREST' },
  'INT4 calibrated, all tables too': { type: 'INT4', head: 'INT4', embeddings: 'INT4' },
  'INT4 nearest, all tables too': { type: 'INT4', head: 'INT4', embeddings: 'INT4', method: 'ROUND_TO_NEAREST' },
  'INT4 calibrated, blocks of 64': { type: 'INT4', blockSize: 64 },
  'INT8 nearest': { type: 'INT8', method: 'ROUND_TO_NEAREST' },
  'INT8 calibrated': { type: 'INT8' },
}

/**
 * `--samples 4` validation samples per capability, `--tokens 8192` calibration tokens, `--only a,b` variants by name, `--python` with
 * llama-cpp-python (default /opt/peers-venv/bin/python; without it the rows of llama.cpp are left out), `--speed` measures decoding, `--data FOLDER`
 * keeps what was found, so that a run that was stopped goes on.
 */
export async function run(args: string[]): Promise<Record<string, unknown>> {
  const { values } = parseArgs({
    args,
    options: {
      samples: { type: 'string', default: '4' },
      tokens: { type: 'string', default: '8192' },
      only: { type: 'string' },
      python: { type: 'string', default: '/opt/peers-venv/bin/python' },
      speed: { type: 'boolean', default: false },
      data: { type: 'string' },
    },
  })
  const source = shared('models', 'smollm2-135m-instruct', 'SmolLM2-135M-Instruct.Q4_1.gguf')
  if (values.data) await mkdir(values.data, { recursive: true })
  const dataFolder = values.data ?? (await mkdtemp(join(tmpdir(), 'bench-quantise-')))
  const known = await keptFigures(values.data)
  try {
    const context = await standaloneContext(dataFolder, { progress: progressLines() })
    const { manifest } = await ingestModel({ source }, context)
    const { hash: probes } = await context.payloads.put([await probeSet()])
    const rows: Record<string, Record<string, unknown>> = {}
    const measure = {
      probeSet: probes,
      samplesPerCapability: Number(values.samples),
      maxTokens: 256,
      speed: values.speed,
    }
    const compare = async (name: string, hash: string, more: Record<string, unknown>) => {
      const compared = () => compareManifests(manifest, hash, measure, context)
      const { HARTONOMOUS_KERNELS: kernels, HARTONOMOUS_THREADS: threads } = context.env
      const { found, keptFrom } = await known.of({ compared: [manifest, hash], measure, kernels, threads }, compared)
      const perplexities = Object.fromEntries(found.capabilities.map(c => [c.capability, c.perplexity]))
      const before = Object.fromEntries(found.capabilities.map(c => [c.capability, c.referencePerplexity]))
      rows[name] = {
        ...more,
        ...found,
        ...(keptFrom && { keptFrom }),
        capabilities: undefined,
        perplexities,
        referencePerplexities: before,
      }
      say(
        `${name.padEnd(34)} KL ${found.divergence.toFixed(5)}  top-1 ${(found.agreement * 100).toFixed(2)} %  perplexity ${found.perplexity.toFixed(3)} (before ${found.referencePerplexity.toFixed(3)})  ${found.sizeBytes} bytes  ${found.tokensPerSecond ? `${found.tokensPerSecond.toFixed(1)} tokens/s (before ${found.referenceTokensPerSecond?.toFixed(1)})` : ''}${keptFrom ? `  (kept from ${keptFrom})` : ''}`,
      )
    }
    const wanted = values.only?.split(',')
    const isWanted = (name: string) => !wanted || wanted.some(part => name.includes(part))
    for (const [name, given] of Object.entries(variants)) {
      if (!isWanted(name)) continue
      const options = quantizationSchema.parse({ ...given, requantize: true, calibrationTokens: Number(values.tokens) })
      const { found, keptFrom } = await known.of({ quantised: manifest, options, probes }, async () => {
        const begin = performance.now()
        const result = await quantiseManifest(manifest, options, probes, context)
        return { result, seconds: (performance.now() - begin) / 1000 }
      })
      const { result, seconds } = found
      say(
        `${name}: ${keptFrom ? `kept from ${keptFrom}, ` : ''}${seconds.toFixed(1)} s, ${JSON.stringify(result.types)}`,
      )
      await compare(name, result.manifest, {
        seconds,
        types: result.types,
        ...(keptFrom && { quantisedAt: keptFrom }),
      })
    }
    if (isWanted(scaledName)) {
      const { found } = await known.of({ scaled: manifest, tokens: values.tokens, probes }, async () => {
        const begin = performance.now()
        const result = await scaledByActivations(manifest, probes, Number(values.tokens), context)
        return { result, seconds: (performance.now() - begin) / 1000 }
      })
      // Kept as float32: of its bytes only those of the codes that it stands for would count.
      await compare(scaledName, found.result, { seconds: found.seconds, storedAsFloat32: true })
    }
    for (const pure of [false, true]) {
      const name = pure ? 'llama.cpp Q4_0, all tables too' : 'llama.cpp Q4_0'
      if (!isWanted(name)) continue
      const path = join(dataFolder, `llama-${pure}.gguf`)
      if (!existsSync(values.python)) {
        say(`${name}: left out, ${values.python} is not there`)
        continue
      }
      await promisify(execFile)(values.python, [
        shared('peers', 'llama_quantize.py'),
        source,
        path,
        'q4_0',
        ...(pure ? ['--pure'] : []),
      ])
      const theirs = await ingestModel({ source: path }, context)
      await compare(name, theirs.manifest, {})
    }
    return { samplesPerCapability: Number(values.samples), calibrationTokens: Number(values.tokens), rows }
  } finally {
    if (!values.data) await rm(dataFolder, { recursive: true, force: true })
  }
}
