import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { importProbes } from '../../../../compute/handlers/import-probes.js'
import { parseProbeSet } from '../../../../compute/probing/probe-set.js'
import { projectFile } from '../../../../lib/project.js'
import { handlerContext, type TestHandlerContext } from '../../../testkit/handler-context.js'

let context: TestHandlerContext
let folder: string
beforeAll(async () => {
  context = await handlerContext()
  folder = join(context.dataFolder, 'source')
  await mkdir(folder)
})
afterAll(() => context.dispose())

const line = (subtask: string, prompt: string, more: object = {}) =>
  `${JSON.stringify({ task: 'maths', subtask, prompt, completion: ' 2', ...more })}\n`

describe('probes.import', () => {
  it('stores a set with a split for every line and counts it', async () => {
    const path = join(folder, 'set.jsonl')
    await writeFile(path, line('sums', 'a') + line('sums', 'b') + line('roots', 'c', { split: 'validation', extra: 1 }))
    const output = await importProbes({ source: path }, context)
    expect(output.sampleCount).toBe(3)
    expect(output.capabilities).toEqual([
      { capability: 'maths', subtask: 'sums', probe: 1, validation: 1 },
      { capability: 'maths', subtask: 'roots', probe: 0, validation: 1 },
    ])
    const stored = await parseProbeSet(await context.payloads.get(output.probeSet))
    expect(stored.map(s => s.prompt)).toEqual(['a', 'b', 'c'])
    const again = await importProbes({ source: pathToFileURL(path).href }, context)
    expect(again).toEqual(output)
  })

  it('takes plain text and lines of text, as passages whose last quarter is held out', async () => {
    const passage = (n: number) =>
      `Chapter ${n} begins with a sentence that is long enough, and goes on with another one after it.`
    const text = Array.from({ length: 40 }, (_, n) => passage(n).repeat(6)).join('\n\n')
    const [plain, lines, broken] = ['book.txt', 'lines.jsonl', 'latin.txt'].map(name => join(folder, name))
    await writeFile(plain!, text)
    const output = await importProbes({ source: plain! }, context)
    expect(output.capabilities).toEqual([
      { capability: 'text', subtask: 'plain', probe: expect.any(Number), validation: expect.any(Number) },
    ])
    const stored = await parseProbeSet(await context.payloads.get(output.probeSet))
    const held = new Set(stored.filter(s => s.split === 'validation').map(s => s.prompt))
    expect(held.size).toBe(Math.round(stored.length / 4))
    expect(stored.map(s => s.split).join('')).toMatch(/^(probe)+(validation)+$/)
    expect(stored.some(s => s.split === 'probe' && held.has(s.prompt))).toBe(false)
    await writeFile(lines!, `${JSON.stringify({ text, task: 'stories' })}\n`)
    const other = await importProbes({ source: lines! }, context)
    expect(other.capabilities[0]).toMatchObject({ capability: 'stories', subtask: 'plain' })
    expect(other.sampleCount).toBe(output.sampleCount)
    await writeFile(broken!, Buffer.from([0x41, 0xe9, 0x20]))
    await expect(importProbes({ source: broken! }, context)).rejects.toThrow('latin.txt: not valid UTF-8')
    await writeFile(broken!, 'short')
    await expect(importProbes({ source: broken! }, context)).rejects.toThrow('holds no passage')
  })

  it('reads the built-in set from its folder', async () => {
    const output = await importProbes({ source: projectFile('probes') }, context)
    expect(output.sampleCount).toBe(360)
    expect(output.capabilities).toHaveLength(30)
    expect(output.capabilities.every(c => c.probe === 8 && c.validation === 4)).toBe(true)
  })

  it('takes the split from the names probe.jsonl and validation.jsonl', async () => {
    const sub = join(folder, 'named')
    await mkdir(sub)
    await writeFile(join(sub, 'probe.jsonl'), line('sums', 'a') + line('sums', 'b'))
    await writeFile(join(sub, 'validation.jsonl'), line('sums', 'c') + line('sums', 'd'))
    const output = await importProbes({ source: sub }, context)
    expect(output.capabilities).toEqual([{ capability: 'maths', subtask: 'sums', probe: 2, validation: 2 }])
  })

  it('takes the split of texts from such names, and holds whole texts out where there are several', async () => {
    const text = (topic: string) =>
      Array.from({ length: 12 }, (_, n) => `On ${topic}, part ${n}: `.padEnd(900, 'so it goes on. ')).join('\n\n')
    const [named, several] = [join(folder, 'named-texts'), join(folder, 'several')]
    for (const path of [named, several]) await mkdir(path)
    await writeFile(join(named, 'probe.txt'), text('cats'))
    await writeFile(join(named, 'validation.md'), text('dogs'))
    await writeFile(join(named, 'README.md'), text('these files'))
    const splitsOf = async (source: string) => {
      const stored = await parseProbeSet(await context.payloads.get((await importProbes({ source }, context)).probeSet))
      const topics = new Map<string, Set<string>>()
      for (const { prompt, split } of stored) {
        const [, topic] = /On (.*), part/.exec(prompt)!
        topics.set(topic!, (topics.get(topic!) ?? new Set()).add(split))
      }
      return topics
    }
    expect(await splitsOf(named)).toEqual(
      new Map([
        ['cats', new Set(['probe'])],
        ['dogs', new Set(['validation'])],
      ]),
    )
    const topics = ['cats', 'dogs', 'hens', 'cows', 'owls']
    for (const topic of topics) await writeFile(join(several, `${topic}.md`), text(topic))
    const found = await splitsOf(several)
    expect([...found.keys()].sort()).toEqual([...topics].sort())
    const both = [...found.values()].map(own => [...own].join())
    expect(new Set(both)).toEqual(new Set(['probe', 'validation']))
    // Lines that are texts go as wholes, too.
    const lines = join(folder, 'texts.jsonl')
    await writeFile(lines, topics.map(topic => JSON.stringify({ text: text(topic) })).join('\n'))
    expect(new Map([...(await splitsOf(lines))].sort())).toEqual(new Map([...found].sort()))
  })

  it.each([
    ['nowhere.jsonl', 'SOURCE_NOT_FOUND', 'does not exist'],
    ['empty', 'INVALID_PROBE_DATASET', 'no .jsonl, .txt or .md files'],
    ['broken.jsonl', 'INVALID_PROBE_DATASET', 'broken.jsonl, line 2: prompt'],
    ['ftp://example.org/x.jsonl', 'SOURCE_REFUSED', 'ftp'],
  ])('refuses %s with %s', async (name, code, message) => {
    await mkdir(join(folder, 'empty'), { recursive: true })
    await writeFile(join(folder, 'broken.jsonl'), line('sums', 'a') + line('sums', ''))
    const source = name.includes(':') ? name : join(folder, name)
    const error = await importProbes({ source }, context).catch(e => e)
    expect(error.code).toBe(code)
    expect(error.message).toContain(message)
  })

  it('reads a set over HTTP and keeps no download', async () => {
    const server = createServer((_, response) => response.end(line('sums', 'a') + line('sums', 'b')))
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    const { port } = server.address() as AddressInfo
    const open = { ...context, env: { ...context.env, HARTONOMOUS_ALLOW_PRIVATE_SOURCES: true } }
    try {
      const before = (await readdir(context.dataFolder)).sort()
      const output = await importProbes({ source: `http://127.0.0.1:${port}/set.jsonl` }, open)
      expect(output.sampleCount).toBe(2)
      const left = (await readdir(context.dataFolder)).filter(name => !before.includes(name))
      for (const name of left) expect(await readdir(join(context.dataFolder, name), { recursive: true })).toEqual([])
    } finally {
      server.close()
    }
  })

  it('refuses an address of this machine unless allowed', async () => {
    const error = await importProbes({ source: 'http://127.0.0.1:9/set.jsonl' }, context).catch(e => e)
    expect(error.code).toBe('SOURCE_REFUSED')
  })

  it('reads what it wrote to the same set', async () => {
    const first = await importProbes({ source: projectFile('probes') }, context)
    const copy = join(folder, 'copy.jsonl')
    await writeFile(copy, await context.payloads.get(first.probeSet))
    expect((await importProbes({ source: copy }, context)).probeSet).toBe(first.probeSet)
  })
})
