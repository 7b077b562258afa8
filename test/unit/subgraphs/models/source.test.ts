// What a source suggests as a name.
import { expect, test } from 'vitest'
import { checkSource } from '../../../../subgraphs/models/source.js'

const env = { HARTONOMOUS_ALLOW_PRIVATE_SOURCES: false }

test.each([
  ['/data/SmolLM2-135M.Q4_1.gguf', 'SmolLM2-135M.Q4_1'],
  ['/data/tiny-llama/model.safetensors', 'tiny-llama'],
  ['/data/tiny-llama/model.safetensors.index.json', 'tiny-llama'],
  ['/data/tiny-llama/model-00001-of-00003.safetensors', 'tiny-llama'],
  ['/data/tiny-llama/', 'tiny-llama'],
  ['tiny-llama', 'tiny-llama'],
  ['file:///data/my%20model.gguf', 'my model'],
  ['https://example.com/models/a.gguf?download=true', 'a'],
  ['https://example.com', 'example.com'],
  ['hf:HuggingFaceTB/SmolLM2-135M-Instruct@main', 'SmolLM2-135M-Instruct'],
  ['hf:owner/many-GGUF/many.Q4_K_M.gguf@v1', 'many.Q4_K_M'],
  ['hf:owner/some/model.safetensors', 'some'],
  ['C:\\models\\a.gguf', 'C:\\models\\a'],
])('%s is called %s', (source, name) => {
  expect(checkSource(source, env).name).toBe(name)
})

test('http is for those who allow private sources', () => {
  expect(() => checkSource('http://10.0.0.1/a.gguf', env)).toThrow('"http:" is not allowed')
  expect(checkSource('http://10.0.0.1/a.gguf', { HARTONOMOUS_ALLOW_PRIVATE_SOURCES: true }).name).toBe('a')
})

test.each(['hf:..', 'hf:../..', 'hf:owner', 'hf:owner/name/folder/file.gguf', 'https://%', 'file:///%E0%A4%A', 'a\0b'])(
  '%j is not an address',
  source => {
    expect(() => checkSource(source, env)).toThrow(expect.objectContaining({ code: 'BAD_USER_INPUT' }))
  },
)
