// The command line as a person uses it: the compiled CLI against a running platform, from ingest to generate.
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { shortId } from '../../cli/short-id.js'
import { projectFile } from '../../lib/project.js'
import { startTestPlatform, type TestPlatform } from '../testkit/platform.js'

let platform: TestPlatform
let url: string
const folder = mkdtempSync(join(tmpdir(), 'hartonomous-cli-'))

beforeAll(async () => {
  platform = await startTestPlatform()
  url = platform.url
})
afterAll(async () => {
  await platform.stop()
  rmSync(folder, { recursive: true, force: true })
})

interface Outcome {
  code: number
  out: string
  err: string
}

function cli(
  args: string[],
  interruptOn?: RegExp,
  env: Record<string, string> = {},
  onMatch?: () => void,
): Promise<Outcome> {
  return new Promise(resolve => {
    const child = spawn(process.execPath, [projectFile('cli', 'bin.mjs'), ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...env },
    })
    let out = ''
    let err = ''
    let interrupted = false
    child.stdout.on('data', d => (out += d))
    child.stderr.on('data', d => {
      err += d
      if (!interruptOn?.test(err) || interrupted) return
      interrupted = true
      if (onMatch) onMatch()
      else child.kill('SIGINT')
    })
    child.once('exit', code => resolve({ code: code ?? -1, out, err }))
  })
}
const run = (...args: string[]) => cli(['--url', url, ...args])
const json = async (...args: string[]) => {
  const { code, out, err } = await cli(['--url', url, '--json', ...args])
  expect(err.includes('Failed') ? err : '').toBe('')
  expect(code).toBe(0)
  return JSON.parse(out)
}

test('a model goes from ingest to a generating student by commands alone', async () => {
  const parent = await json('ingest', projectFile('demo', 'model'), '--name', 'parent')
  expect(parent).toMatchObject({ name: 'parent', architecture: 'llama', layerCount: 8 })

  const probes = projectFile('demo', 'probes')
  const analysis = await json('analyze', 'parent', '--probes', probes, '--samples', '4')
  expect(analysis.layers).toHaveLength(8)
  expect(analysis.baseline).toHaveLength(7)

  const recipes = await json('propose', 'parent', '--probes', probes, '--samples', '4', '--capability', 'translation')
  expect(recipes.length).toBeGreaterThanOrEqual(2)
  const recipe = recipes[0]
  expect((await run('approve', recipe.id)).code).toBe(0)
  const student = await json('build', recipe.id)
  expect(student).toMatchObject({ isStudent: true, parent: { name: 'parent' }, uniqueBytes: 0 })
  expect(student.measuredQuality).toBeGreaterThan(0)

  const answer = await json('generate', student.id, 'English: big blue bear. Velan:', '--max-tokens', '8')
  expect(answer.usage.completionTokens).toBeGreaterThan(0)
  const exported = await json('export', student.id)
  expect(exported.files.map((f: { path: string }) => f.path.split('/').at(-1))).toContain('model.safetensors')
  expect(exported.files[0].url).toMatch(new RegExp(`^${url}/exports/`))
  const saved = await json('export', student.id, '--output', join(folder, 'exported'))
  const weights = saved.files.find((f: { path: string }) => f.path.endsWith('/model.safetensors'))
  expect(
    createHash('sha256')
      .update(readFileSync(join(folder, 'exported', 'model.safetensors')))
      .digest('hex'),
  ).toBe(weights.sha256)
}, 120_000)

test('tables name what was measured', async () => {
  const { out, code } = await run('show', 'parent')
  expect(code).toBe(0)
  expect(out).toContain('What a layer carries')
  expect(out.match(/\/pictures\/models\/\w+\/(layers|map|students)\.svg/g)).toHaveLength(3)
  // A row of the table: capability, then layers with their losses.
  expect(out).toMatch(/^translation +\d+ \(\d+\.\d\d\)/m)
  expect(out).toMatch(/most important heads +least important key\/value groups\s*\n[^\n]*\d\.\d \([\d.e-]+\)/)
  expect((await run('models')).out).toContain('student')
  expect((await run('recipes', '--parent', 'parent')).out).toContain('BUILT')
  expect((await run('jobs')).out).toContain('CAPABILITY_ANALYZE')
  expect((await run('storage')).out).toContain('sharing saves')
  expect((await run('verify')).out).toContain('all whole')
  expect((await run('gc')).out).toContain('payloads removed')
})

test('of several recipes of one name the newest is meant', async () => {
  const file = join(folder, 'recipe.yaml')
  writeFileSync(
    file,
    'merge_method: passthrough\nslices:\n  - sources:\n      - model: parent\n        layer_range: [0, 4]\n',
  )
  const older = await json('create-recipe', file)
  const newer = await json('create-recipe', file)
  expect(newer.name).toBe(older.name)
  expect((await json('recipe', older.name)).id).toBe(newer.id)
  expect((await json('recipe', older.id)).id).toBe(older.id)
  // Of two that could be built the one that may be is.
  expect((await run('approve', older.id)).code).toBe(0)
  expect((await json('build', older.name)).isStudent).toBe(true)
  expect((await json('recipe', newer.id)).status).toBe('PROPOSED')
  expect((await json('create-recipe', file, '--name', 'first-half')).name).toBe('first-half')
  const shown = (await run('recipe', 'first-half')).out
  const [short] = /[0-9a-f]{8}$/m.exec(shown) ?? ['']
  expect((await json('recipe', short)).name).toBe('first-half')
}, 60_000)

test('a job that is watched again says what came of it', async () => {
  const { nodes } = (
    await platform.gql('{ jobs(types: [STUDENT_BUILD, CAPABILITY_ANALYZE], first: 3) { nodes { id type } } }')
  ).jobs
  expect(nodes.length).toBeGreaterThan(0)
  for (const { id, type } of nodes as { id: string; type: string }[]) {
    const { out, code } = await run('watch', shortId(id))
    expect(code).toBe(0)
    expect(out).toContain(`${type} SUCCEEDED in `)
    expect(out).toContain(type === 'STUDENT_BUILD' ? ' layers, ' : 'What a layer carries')
  }
}, 60_000)

test('a name that no model has fails with code 1 and says so', async () => {
  const { code, err } = await run('show', 'nobody')
  expect(code).toBe(1)
  expect(err).toContain('Failed [NOT_FOUND]: No model has the id or name "nobody"')
})

test('a probe set that is neither known nor a file is one sentence', async () => {
  const { code, err } = await run('analyze', 'parent', '--probes', './nowhere.jsonl')
  expect(code).toBe(1)
  expect(err).toContain('No probe set has the id or name "./nowhere.jsonl", and there is no file /')
})

test('a name that two models have is refused for delete and taken as the newest, with a word, elsewhere', async () => {
  const older = await json('ingest', projectFile('demo', 'model'), '--name', 'twin')
  const newer = await json('ingest', projectFile('demo', 'model'), '--name', 'twin')
  const refused = await run('delete', 'twin')
  expect(refused.code).toBe(1)
  for (const { id } of [older, newer]) expect(refused.err).toContain(shortId(id))
  const shown = await run('--json', 'show', 'twin')
  expect(JSON.parse(shown.out).id).toBe(newer.id)
  expect(shown.err).toContain('2 models are called "twin"')
  expect((await run('delete', older.id)).code).toBe(0)
  expect((await run('delete', 'twin')).code).toBe(0)
}, 60_000)

test('a data folder in use is one sentence and code 1', async () => {
  const { code, err } = await cli(['models'], undefined, { HARTONOMOUS_DATA: platform.dataFolder, PORT: '1' })
  expect(code).toBe(1)
  expect(err).toMatch(/Failed: The platform did not start: .*another Hartonomous process uses this data folder\n$/)
}, 60_000)

test('a corrupt file fails with code 1, names the field and leaves no model', async () => {
  const file = join(folder, 'broken.gguf')
  writeFileSync(file, 'GGUF')
  const { code, err } = await run('ingest', file, '--name', 'broken')
  expect(code).toBe(1)
  expect(err).toContain('Failed [INVALID_MODEL_FILE]')
  expect((await json('models')).map((m: { name: string }) => m.name)).not.toContain('broken')
})

test('an unknown command, a missing argument and a malformed number are wrong usage: 2', async () => {
  expect((await cli(['nope'])).code).toBe(2)
  expect((await cli(['show'])).code).toBe(2)
  expect((await cli(['generate', 'x', 'y', '--max-tokens', 'many'])).code).toBe(2)
  expect((await cli(['--help'])).code).toBe(0)
})

test.each([
  [['recipes', '--status', 'foo'], 'proposed, approved, rejected'],
  [['jobs', '--state', 'bogus'], 'queued, running, succeeded'],
  [['jobs', '--first', '500'], '0 to 100'],
  [['export', 'x', '--format', 'pickle'], 'safetensors, gguf, onnx'],
  [['generate', 'x', 'y', '--max-tokens', '-4'], 'at least 1'],
  [['generate', 'x', 'y', '--temperature', '-1'], 'at least 0'],
  [['--url', 'nonsense', 'models'], 'http://127.0.0.1:4000'],
])('%j is wrong usage and says what is allowed', async (args, allowed) => {
  const { code, err } = await cli(args)
  expect(code).toBe(2)
  expect(err).toContain(allowed)
  // A line, and where to read on.
  expect(err.trim().split('\n')).toHaveLength(2)
  expect(err).toMatch(/See `hartonomous.* --help`\./)
})

test('an address where nothing answers fails with code 1 and says how to start one', async () => {
  const { code, err } = await cli(['--url', 'http://127.0.0.1:1', 'models'])
  expect(code).toBe(1)
  expect(err).toContain('npm start')
})

test('an interrupt ends with 130, and the job goes on', async () => {
  const probes = projectFile('demo', 'probes')
  const { code, err } = await cli(['--url', url, 'propose', 'parent', '--probes', probes], /propose:/)
  expect(code).toBe(130)
  const id = /hartonomous watch (\S+)`/.exec(err)?.[1]
  expect(id).toBeTruthy()
  const watched = await run('watch', id ?? '')
  expect(watched.out).toContain('STUDENTS_PROPOSE SUCCEEDED')
  // What the interrupted command would have said.
  expect(watched.out).toMatch(/^recipe +params +predicted/m)
  expect(watched.out).toContain('`hartonomous recipe ID` says why')
})

test('a server that stops while a job is followed is said in a sentence with the job, code 1', async () => {
  const other = await startTestPlatform()
  const ingest = ['--url', other.url, 'ingest', projectFile('demo', 'model'), '--name', 'watched']
  expect((await cli(ingest)).code).toBe(0)
  const args = ['--url', other.url, 'analyze', 'watched', '--samples', '0']
  let stopped: Promise<void> | undefined
  const { code, err } = await cli(args, /analyze:/, {}, () => {
    stopped = other.stop()
  })
  await stopped
  expect(err).toMatch(
    /Failed: the server is stopping; the job goes on when it is back; watch it with `hartonomous watch \S+`/,
  )
  expect(code).toBe(1)
}, 60_000)
