import { expect, test } from 'vitest'
import { publicSource } from '../../../../subgraphs/models/model-facts.js'

test.each([
  ['hf:owner/name@main', 'hf:owner/name@main'],
  ['https://host/models/a.gguf?X-Amz-Signature=secret#part', 'https://host/models/a.gguf'],
  ['/home/ann/clients/acme/model.gguf', 'model.gguf'],
  ['file:/home/ann/clients/acme/model.gguf', 'model.gguf'],
])('strangers read %s as %s', (source, shown) => {
  expect(publicSource(source)).toBe(shown)
})
