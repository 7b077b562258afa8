// Every environment variable has a line in .env.example with the default that the code has.
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { readEnv } from '../../../lib/env.js'
import { projectFile } from '../../../lib/project.js'

const example = readFileSync(projectFile('.env.example'), 'utf8')
const listed = Object.fromEntries([...example.matchAll(/^([A-Z_]+)=(.*)$/gm)].map(m => [m[1] ?? '', m[2] ?? '']))

test('.env.example lists the defaults', () => {
  const named = Object.fromEntries(Object.entries(listed).filter(([, value]) => value !== ''))
  expect(readEnv(named)).toEqual(readEnv({}))
})

test('every variable is listed in .env.example', () => {
  const source = readFileSync(projectFile('lib', 'env.ts'), 'utf8')
  const variables = [...source.matchAll(/^ {2}([A-Z_]+):/gm)].map(m => m[1] ?? '')
  expect(variables.length).toBeGreaterThan(8)
  expect(variables.filter(v => !(v in listed))).toEqual([])
})

test('a malformed variable is named with its value', () => {
  expect(() => readEnv({ PORT: 'x' })).toThrow(/PORT=x/)
})

test('an empty variable is the default', () => {
  expect(readEnv({ PORT: '', HF_TOKEN: '', HARTONOMOUS_THREADS: '' })).toEqual(readEnv({}))
})

test('a malformed database address is refused without its password', () => {
  const read = () => readEnv({ HARTONOMOUS_DATABASE: 'postgres://user:hunter2@host/db' })
  expect(read).toThrow(/HARTONOMOUS_DATABASE: expected sqlite or mssql/)
  expect(read).not.toThrow(/hunter2/)
})

test('devices are a list of providers, each with the number of one of its devices or all', () => {
  expect(readEnv({ HARTONOMOUS_DEVICES: 'webgpu, cuda:1,cpu' }).HARTONOMOUS_DEVICES).toEqual([
    { provider: 'webgpu', index: undefined },
    { provider: 'cuda', index: 1 },
    { provider: 'cpu', index: undefined },
  ])
  expect(() => readEnv({ HARTONOMOUS_DEVICES: 'cpu,tpu' })).toThrow(/"tpu" is none of cpu, webgpu, cuda and cuda:1/)
})
