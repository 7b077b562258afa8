// The only reader of process.env. Every variable has a type, a default and a line in .env.example.
import { resolve } from 'node:path'
import { z } from 'zod'

const flag = z
  .enum(['true', 'false'])
  .default('false')
  .transform(v => v === 'true')

const schema = z.object({
  PORT: z.coerce.number().int().min(0).max(65535).default(4000),
  HOST: z.string().default('127.0.0.1'),
  HARTONOMOUS_DATA: z
    .string()
    .default('./data')
    .transform(p => resolve(p)),
  /** How the platform is put together; the gateway refuses what it cannot do yet. */
  HARTONOMOUS_MODE: z.enum(['embedded', 'cluster']).default('embedded'),
  /** `sqlite` (a file in the data folder) or a SQL Server address, `mssql://user:password@host:port/database`. */
  HARTONOMOUS_DATABASE: z
    .string()
    .regex(/^(sqlite$|mssql:)/, 'expected sqlite or mssql://user:password@host:port/database')
    .default('sqlite'),
  /** Subgraphs that run as processes of their own, `models=http://127.0.0.1:4101/graphql,…`; the others run in the gateway. */
  HARTONOMOUS_SUBGRAPHS: z
    .string()
    .default('')
    .transform((text, context) => {
      const urls = new Map<string, string>()
      for (const part of text.split(',').filter(p => p.trim())) {
        const [name = '', url = ''] = part.trim().split(/=(.*)/s)
        if (!name || !/^https?:/.test(url) || !URL.canParse(url))
          context.addIssue({ code: 'custom', message: `"${part.trim()}" is not name=http://host:port/graphql` })
        urls.set(name, url)
      }
      return urls as ReadonlyMap<string, string>
    }),
  /** Whether analyses and searches for students may run on WebGPU, whose losses are known to deviate (docs/devices.md). */
  HARTONOMOUS_WEBGPU_MEASURES: flag,
  /** What computes: `cpu`, `webgpu`, `cuda` (all of its devices) or `cuda:1`, separated by commas; each gets workers of its own. */
  HARTONOMOUS_DEVICES: z
    .string()
    .default('cpu')
    .transform((text, context) =>
      text.split(',').flatMap(part => {
        const found = /^(cpu|webgpu|cuda)(?::(\d+))?$/.exec(part.trim())
        if (!found) {
          context.addIssue({ code: 'custom', message: `"${part.trim()}" is none of cpu, webgpu, cuda and cuda:1` })
          return []
        }
        return [{ provider: found[1] as 'cpu' | 'webgpu' | 'cuda', index: found[2] ? Number(found[2]) : undefined }]
      }),
    ),
  /** Threads ONNX Runtime may use in one worker; 0 lets it choose (one per core). */
  HARTONOMOUS_THREADS: z.coerce.number().int().min(0).max(1024).default(0),
  /**
   * What generation decodes with where weights are stored in quantised blocks: those, with activations rounded to 8 bits, or their
   * float32 forms. Prompts and measurements always run in float32.
   */
  HARTONOMOUS_KERNELS: z.enum(['quantised', 'float32']).default('quantised'),
  /** Largest source that may be ingested, in bytes. */
  HARTONOMOUS_MAX_SOURCE_BYTES: z.coerce
    .number()
    .int()
    .positive()
    .default(1024 ** 4),
  /** Whether `https:` sources may resolve to loopback, link-local or private addresses. */
  HARTONOMOUS_ALLOW_PRIVATE_SOURCES: flag,
  /** Where `hf:owner/name` is fetched from. */
  HARTONOMOUS_HF_ENDPOINT: z.string().default('https://huggingface.co'),
  /** Access token for gated repositories; never logged. */
  HF_TOKEN: z.string().optional(),
  /** Largest size of the cache of derived weights, in bytes; and of what teachers said that one training run keeps. */
  HARTONOMOUS_DERIVED_BYTES: z.coerce
    .number()
    .int()
    .positive()
    .default(16 * 1024 ** 3),
  /** Bytes of weights that one worker's sessions may hold; larger models run layer by layer. 0: half of the memory there is. */
  HARTONOMOUS_SESSION_BYTES: z.coerce.number().int().min(0).default(0),
  /** Most bytes that a serving process keeps of sequences that ended, so that texts which begin alike are not read again; 0 keeps none. */
  HARTONOMOUS_PREFIX_BYTES: z.coerce
    .number()
    .int()
    .min(0)
    .default(256 * 1024 ** 2),
  LOG_LEVEL: z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']).default('info'),
})

export type Env = z.output<typeof schema>

/** Their values may hold passwords: an error names them without. */
const secret = new Set(['HARTONOMOUS_DATABASE', 'HF_TOKEN'])

/**
 * Parses the environment; a malformed variable is named with its value and stops the process at once. An empty one (`PORT=` as in a
 * copied .env.example) counts as absent.
 */
export function readEnv(source: Record<string, string | undefined> = process.env): Env {
  const result = schema.safeParse(Object.fromEntries(Object.entries(source).filter(([, value]) => value !== '')))
  if (result.success) return result.data
  const lines = result.error.issues.map(({ path, message }) => {
    const name = String(path[0])
    return `${name}${secret.has(name) ? '' : `=${source[name] ?? ''}`}: ${message}`
  })
  throw new Error(`Environment: ${lines.join('; ')}`)
}

/**
 * Environment of processes that mostly read, write and sync files. libuv has four file threads unless told before it starts; a payload
 * that waits for its sync holds one, and the file system commits those that wait together in one go (measured: a third off an ingest).
 */
export const fileWorkEnvironment = (): NodeJS.ProcessEnv => ({ UV_THREADPOOL_SIZE: '36', ...process.env })
