// Parsed files of a source -> everything a manifest says that is not a hash.
import { isDomainError } from '../../lib/errors.js'
import type { Manifest, ManifestTokenizer } from '../../lib/manifest.js'
import { describeTensor, findArchitecture, unsupportedSettings } from '../architectures/registry.js'
import { elementCount } from '../formats/float-weights.js'
import type { GgufMetadata } from '../formats/gguf.js'
import { ggufArchitecture, ggufDescription, ggufDimensions, ggufMetadataJson } from '../formats/gguf-metadata.js'
import { ggufTokenizerText } from '../formats/gguf-tokenizer.js'
import { hfArchitecture, hfDimensions, hfLicense } from '../formats/hf-config.js'
import { hfChatTemplate, hfTokenizer } from '../formats/hf-tokenizer.js'
import { parseJsonObject } from '../formats/json-scan.js'
import { checkTemplate, objectField, shortText } from '../formats/read-fields.js'
import { invalid, type TensorEntry } from '../formats/tensor-file.js'
import type { WeightFile } from './weight-file.js'

/** What the files say, with small payloads still as bytes. */
export interface ModelDescription {
  format: Manifest['format']
  architecture: string
  dimensions: Manifest['dimensions']
  parameterCount: number
  license: string | undefined
  chatTemplate: string | undefined
  sourceName: string | undefined
  sourceConfig: Uint8Array | undefined
  unsupported?: Manifest['unsupported']
  tokenizer:
    | (Omit<ManifestTokenizer, 'tokenizerJson' | 'tokenizerConfig'> & {
        tokenizerJson: Uint8Array
        tokenizerConfig: Uint8Array | undefined
      })
    | undefined
}

const jsonBytes = (value: unknown) => Buffer.from(JSON.stringify(value))

/** Layers that the tensor names mention. */
function layersSeen(architecture: string, format: Manifest['format'], tensors: readonly TensorEntry[]): number {
  let count = 0
  for (const { name } of tensors)
    count = Math.max(count, (describeTensor(architecture, format, name).layerIndex ?? -1) + 1)
  return count
}

const sum = (tensors: readonly TensorEntry[]) => tensors.reduce((total, t) => total + elementCount(t.shape), 0)

/** @throws DomainError INVALID_MODEL_FILE naming file, field and value */
export function describeModel(
  files: readonly WeightFile[],
  auxiliary: ReadonlyMap<string, Uint8Array>,
): ModelDescription {
  const tensors = files.flatMap(f => f.content.tensors)
  const [first] = files
  if (!first) throw invalid('The source holds no weight file')
  const description =
    first.content.format === 'gguf'
      ? describeGguf(first.name, first.content, tensors)
      : describeHf(files, tensors, auxiliary)
  const ropeLayout = findArchitecture(description.architecture)?.ropeLayout[description.format]
  return { ...description, dimensions: { ...description.dimensions, ropeLayout } }
}

function describeGguf(
  file: string,
  content: Extract<WeightFile['content'], { format: 'gguf' }>,
  tensors: readonly TensorEntry[],
): ModelDescription {
  const { metadata } = content
  const architecture = ggufArchitecture(metadata)
  const converted = tokenizerOf(metadata)
  const tied = !tensors.some(t => t.name === 'output.weight')
  return {
    format: 'gguf',
    architecture,
    dimensions: ggufDimensions(metadata, file, layersSeen(architecture, 'gguf', tensors), tied),
    parameterCount: sum(tensors),
    ...ggufDescription(metadata, file),
    sourceConfig: jsonBytes(ggufMetadataJson(metadata)),
    tokenizer: converted && {
      ...converted.facts,
      tokenizerJson: Buffer.from(converted.tokenizerText),
      tokenizerConfig: jsonBytes(converted.tokenizerConfig),
    },
  }
}

/** A tokenizer of a kind that is not known here does not keep the model out: generating says what is missing. */
function tokenizerOf(metadata: GgufMetadata) {
  try {
    return ggufTokenizerText(metadata)
  } catch (error) {
    if (isDomainError(error) && error.code === 'NO_TOKENIZER') return undefined
    throw error
  }
}

function describeHf(
  files: readonly WeightFile[],
  tensors: readonly TensorEntry[],
  auxiliary: ReadonlyMap<string, Uint8Array>,
): ModelDescription {
  const json = (name: string) => {
    const bytes = auxiliary.get(name)
    return bytes && parseJsonObject(bytes, name)
  }
  const text = (...names: string[]) => {
    const bytes = names.map(name => auxiliary.get(name)).find(found => found !== undefined)
    return bytes && Buffer.from(bytes).toString('utf8')
  }
  const config = json('config.json')
  const generationConfig = json('generation_config.json')
  const tokenizerConfig = json('tokenizer_config.json')
  const tokenizerJson = auxiliary.get('tokenizer.json')
  const tokenizer = json('tokenizer.json')
  const architecture = config ? hfArchitecture(config) : 'unknown'
  const seen = layersSeen(architecture, 'safetensors', tensors)
  const unsupported = config ? unsupportedSettings(architecture, objectField(config, 'text_config') ?? config) : []
  const facts = tokenizer && hfTokenizer({ tokenizer, tokenizerConfig, config, generationConfig })
  const [first] = files
  return {
    format: 'safetensors',
    architecture,
    dimensions: config ? hfDimensions(config, 'config.json', seen) : { layerCount: seen },
    parameterCount: sum(tensors),
    license:
      hfLicense({ readme: text('README.md'), license: text('LICENSE', 'LICENSE.md', 'LICENSE.txt') }) ??
      (first?.content.format === 'safetensors' ? shortText(first.content.metadata, ['license']) : undefined),
    chatTemplate: checkTemplate(hfChatTemplate(tokenizerConfig, text('chat_template.jinja')), 'tokenizer files'),
    sourceName: config && shortText(config, ['_name_or_path']),
    sourceConfig: auxiliary.get('config.json'),
    ...(unsupported.length > 0 ? { unsupported } : {}),
    tokenizer:
      facts && tokenizerJson
        ? { ...facts, tokenizerJson, tokenizerConfig: auxiliary.get('tokenizer_config.json') }
        : undefined,
  }
}
