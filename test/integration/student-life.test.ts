// The main job through the gateway with real workers: a model is analysed, students are proposed, one is approved, built, measured and speaks.
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { writePicoLlama } from '../testkit/pico-llama.js'
import { type Json, startTestPlatform, type TestPlatform } from '../testkit/platform.js'

let platform: TestPlatform
let source: string
let modelId: string
beforeAll(async () => {
  source = await mkdtemp(join(tmpdir(), 'pico-'))
  await writePicoLlama(source, { layers: 4, context: 512 })
  platform = await startTestPlatform()
  modelId = (await platform.ingest(source, 'pico')).id
}, 60_000)
afterAll(async () => {
  await platform?.stop()
  await rm(source, { recursive: true, force: true })
})

const picture = (id: string, name: string, headers: Record<string, string> = {}) =>
  fetch(`${platform.url}/pictures/models/${id}/${name}`, { headers })
const refusal = async (response: Response) => [response.status, (await response.json()).errors[0].message]

test('before anything is measured no picture is there, and the answer says what to run', async () => {
  expect(await refusal(await picture(modelId, 'layers.svg'))).toEqual([404, expect.stringContaining('analyzeModel')])
  expect(await refusal(await picture(modelId, 'map.svg'))).toEqual([404, expect.stringContaining('analyzeModel')])
  expect(await refusal(await picture(modelId, 'students.svg'))).toEqual([
    404,
    expect.stringContaining('proposeStudents'),
  ])
  const unknown = Buffer.from('Model:01a20a19-2432-7757-879b-c9243060873b').toString('base64url')
  for (const id of [unknown, 'nonsense', Buffer.from('Job:01a20a19-2432-7757-879b-c9243060873b').toString('base64url')])
    expect(await refusal(await picture(id, 'layers.svg'))).toEqual([
      404,
      expect.stringContaining(`No Model has the id or the name "${id}"`),
    ])
  for (const name of ['other.svg', 'layers', 'constructor.svg', 'layers.png'])
    expect(await refusal(await picture(modelId, name))).toEqual([404, expect.stringContaining('layers.svg, map.svg')])
})

async function follow(id: string): Promise<Json> {
  let last: Json
  const source = `subscription($id: ID!) { jobProgress(id: $id) { state error { code message }
    analysis { layers { layerIndex } } recipes { id name status } recipe { id status } model { name layerCount } } }`
  for await (const { data, errors } of platform.subscribe(source, { id })) {
    if (errors) throw new Error(errors[0]!.message)
    last = data!.jobProgress
  }
  expect(last).toMatchObject({ state: 'SUCCEEDED', error: null })
  return last
}

test('analysis, proposals, approval, building and measuring follow from one another', async () => {
  const analysis = await platform.mutate('analyzeModel', { modelId, samplesPerCapability: 2 }, 'job { id }')
  expect((await follow(analysis.job.id)).analysis.layers.map((l: Json) => l.layerIndex)).toEqual([0, 1, 2, 3])
  const { model } = await platform.gql(
    `query($id: ID!) { model(id: $id) { history { kind } capabilityScores { loss capability { slug name } }
      analysis { baseline { perplexity } layers { blockInfluence capabilities { lossIncrease score capability { slug } } } } } }`,
    { id: modelId },
  )
  expect(model.analysis.layers[0].capabilities).toHaveLength(7)
  expect(model.capabilityScores).toHaveLength(7)
  expect(model.history.map((e: Json) => e.kind)).toContain('ANALYZED')

  const search = await platform.mutate(
    'proposeStudents',
    { modelId, capabilities: ['translation'] },
    'recipes { id } job { id }',
  )
  const proposals = (await follow(search.job.id)).recipes
  expect(proposals.length).toBeGreaterThanOrEqual(2)
  for (const name of ['layers', 'map', 'students']) {
    const response = await picture(modelId, `${name}.svg`)
    expect(response.headers.get('content-type')).toBe('image/svg+xml; charset=utf-8')
    expect(response.headers.get('content-security-policy')).toContain("default-src 'none'")
    expect(await response.text()).toMatch(/^<svg [^>]*role="img".*pico.*<\/svg>$/s)
    const again = await picture(modelId, `${name}.svg`, { 'if-none-match': response.headers.get('etag')! })
    expect([again.status, await again.text()]).toEqual([304, ''])
  }
  const named = await picture('pico', 'layers.svg')
  expect(await named.text()).toBe(await (await picture(modelId, 'layers.svg')).text())
  expect((await picture('pic', 'layers.svg')).status).toBe(404)
  const recipeId = proposals[0].id
  const fields =
    'status estimatedParameterCount estimatedQuality measuredQuality layerCount yaml capability { slug } student { id name parameterCount layerCount parent { id } recipe { id } capabilityQualities { quality } }'
  const readRecipe = async () =>
    (await platform.gql(`query($id: ID!) { recipe(id: $id) { ${fields} } }`, { id: recipeId })).recipe
  await platform.mutate('approveRecipe', { recipeId }, 'recipe { status }')
  const build = await platform.mutate('buildStudent', { recipeId }, 'recipe { status } job { id }')
  expect(build.recipe.status).toBe('BUILDING')
  const built = await follow(build.job.id)
  expect(built.recipe).toMatchObject({ id: recipeId, status: 'BUILT' })

  const { jobs } = await platform.gql('{ jobs(types: [MODEL_EVALUATE]) { nodes { id } } }')
  await platform.succeeded(jobs.nodes[0].id)
  const recipe = await readRecipe()
  expect(recipe).toMatchObject({
    status: 'BUILT',
    capability: { slug: 'translation' },
    student: {
      layerCount: recipe.layerCount,
      parameterCount: recipe.estimatedParameterCount,
      parent: { id: modelId },
      recipe: { id: recipeId },
    },
  })
  // Measured without those layers as it was with them gated off, on the same samples or more of them.
  expect(recipe.measuredQuality).toBeGreaterThan(0)
  expect(recipe.student.capabilityQualities).toEqual([{ quality: recipe.measuredQuality }])

  const ask = { modelId: recipe.student.id, prompt: 'the', maxTokens: 20 }
  const whole = await platform.mutate('generate', ask, 'text finishReason usage { completionTokens } job { id }')
  let text = ''
  let end: Json
  for await (const { data } of platform.subscribe(
    'subscription($input: GenerateInput!) { generateStream(input: $input) { textDelta finishReason usage { completionTokens } } }',
    { input: ask },
  )) {
    end = data!.generateStream
    text += end.textDelta
  }
  expect(text).toBe(whole.text)
  expect(end).toMatchObject({ finishReason: whole.finishReason, usage: whole.usage })

  // Its export comes back as what it is: a student of its parent.
  const exporting = await platform.mutate('exportModel', { modelId: ask.modelId, format: 'SAFETENSORS' }, 'job { id }')
  await platform.succeeded(exporting.job.id)
  const exported = join(platform.dataFolder, 'exports')
  const [job] = await readdir(exported)
  const { id } = await platform.ingest(join(exported, job!), 'back')
  const { model: back } = await platform.gql('query($id: ID!) { model(id: $id) { isStudent parent { id } } }', { id })
  expect(back).toMatchObject({ isStudent: true, parent: { id: modelId } })
}, 120_000)

test('what a worker refuses reaches a stream as an error with its code', async () => {
  const answers: Json[] = []
  for await (const answer of platform.subscribe(
    'subscription($input: GenerateInput!) { generateStream(input: $input) { textDelta } }',
    { input: { modelId, prompt: 'word '.repeat(3000) } },
  ))
    answers.push(answer)
  expect(answers.at(-1)!.errors[0].extensions.code).toBe('CONTEXT_LENGTH_EXCEEDED')
})

test('what the input lacks reaches a stream as an error with its code', async () => {
  const events = platform.sse('subscription($input: GenerateInput!) { generateStream(input: $input) { textDelta } }', {
    input: { modelId },
  })
  const answers: Json[] = []
  for await (const answer of events) answers.push(answer)
  expect(answers.at(-1)!.errors[0].extensions.code).toBe('BAD_USER_INPUT')
})
