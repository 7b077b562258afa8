// Which files of a folder or repository make up a model: the choice every kind of source shares.
import { DomainError } from '../../lib/errors.js'

/** Files that describe a model beside its weights, where they are there; they are kept byte for byte. */
export const auxiliaryNames = [
  'config.json',
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'chat_template.jinja',
  'README.md',
  'LICENSE',
  'LICENSE.md',
  'LICENSE.txt',
] as const

/** Larger than any tokenizer.json (Gemma's has 33 MB). */
export const maximumAuxiliaryBytes = 64 * 1024 * 1024

export const indexName = 'model.safetensors.index.json'

export interface ChosenFiles {
  format: 'safetensors' | 'gguf'
  /** Weight files; where `index` is set, the index names them. */
  weights: string[]
  index?: string
  auxiliary: string[]
}

const refuse = (message: string) => new DomainError('SOURCE_NOT_FOUND', message, { field: ['input', 'source'] })

/** At most ten names, for messages. */
export const listed = (names: readonly string[]) =>
  names.slice(0, 10).join(', ') + (names.length > 10 ? ` and ${names.length - 10} more` : '')

/** @throws DomainError SOURCE_NOT_FOUND where nothing or no single model is there, listing what is */
export function chooseFiles(names: readonly string[], where: string): ChosenFiles {
  const auxiliary = auxiliaryNames.filter(name => names.includes(name))
  const safetensors = names.filter(name => /\.safetensors$/.test(name) && !name.includes('/'))
  const gguf = names.filter(name => /\.gguf$/i.test(name) && !name.includes('/'))
  if (names.includes('model.safetensors')) return { format: 'safetensors', weights: ['model.safetensors'], auxiliary }
  if (names.includes(indexName)) return { format: 'safetensors', weights: [], index: indexName, auxiliary }
  if (safetensors.length === 1) return { format: 'safetensors', weights: safetensors, auxiliary }
  if (safetensors.length > 1) {
    throw refuse(
      `${where} holds ${safetensors.length} SafeTensors files and no ${indexName}; name one: ${listed(safetensors)}`,
    )
  }
  // A GGUF file carries its own configuration and tokenizer.
  if (gguf.length === 1) return { format: 'gguf', weights: gguf, auxiliary: [] }
  if (gguf.length > 1) throw refuse(`${where} holds ${gguf.length} GGUF files; name one: ${listed(gguf)}`)
  throw refuse(`${where} holds no .safetensors and no .gguf file${names.length ? ` (it holds ${listed(names)})` : ''}`)
}
