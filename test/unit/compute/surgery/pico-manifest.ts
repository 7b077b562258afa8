// A manifest of a pico Llama with made-up payload hashes: for planning, which never opens a payload.
import { createHash } from 'node:crypto'
import { llama } from '../../../../compute/architectures/llama.js'
import type { Manifest, ManifestTensor } from '../../../../lib/manifest.js'

const hash = (text: string) => createHash('sha256').update(text).digest('hex')

export function picoManifest({
  layerCount,
  format = 'safetensors',
  intermediateSize = 48,
}: {
  layerCount: number
  intermediateSize?: number
  format?: 'safetensors' | 'gguf'
}): Manifest {
  const dimensions = {
    layerCount,
    hiddenSize: 32,
    intermediateSize,
    attentionHeadCount: 4,
    keyValueHeadCount: 2,
    headSize: 8,
    vocabularySize: 64,
    contextLength: 128,
    normEpsilon: 1e-5,
    ropeTheta: 10000,
    ropeLayout: llama.ropeLayout[format],
    tiedEmbeddings: true,
  }
  const resolved = { ...dimensions, ropeScaling: undefined, slidingWindow: undefined }
  const tensors = llama.tensors
    .filter(place => place.presence === 'required')
    .flatMap(place =>
      Array.from({ length: place.perLayer ? layerCount : 1 }, (_, layer): ManifestTensor & { order: number } => {
        const shape = place.shape(resolved)
        const name = (place.names[format][0] ?? '').replace('{layer}', String(layer))
        return {
          name,
          role: place.perLayer ? `layers.${layer}.${place.role}` : place.role,
          layerIndex: place.perLayer ? layer : null,
          component: place.component,
          shape,
          dtype: 'F32',
          bytes: 4 * shape.reduce((a, b) => a * b, 1),
          payload: hash(name),
          order: place.role === 'embed' ? -1 : place.perLayer ? layer : layerCount,
        }
      }),
    )
    .sort((a, b) => a.order - b.order)
    .map(({ order: _, ...tensor }) => tensor)
  return {
    manifestVersion: 1,
    format,
    architecture: 'llama',
    dimensions,
    parameterCount: tensors.reduce((sum, t) => sum + t.bytes / 4, 0),
    tensors,
    tokenizer: {
      tokenizerJson: hash('tokenizer.json'),
      kind: 'BPE',
      vocabularySize: 64,
      eosTokenIds: [2],
      addBos: true,
      bosTokenId: 1,
    },
    chatTemplate: '{{ messages }}',
    license: 'apache-2.0',
    sourceFiles: [{ name: 'model', bytes: 1, header: hash('header'), tensors: [] }],
    sourceConfig: hash('config.json'),
  }
}
