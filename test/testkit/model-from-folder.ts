// Puts a model folder (one SafeTensors file, config.json, tokenizer.json) into a payload store and gives its manifest.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describeTensor } from '../../compute/architectures/registry.js'
import type { Manifest } from '../../lib/manifest.js'
import { openFilePayloadStore } from '../../payloads/file-payload-store.js'
import type { PayloadStore } from '../../payloads/payload-store.js'

export interface StoredModel {
  manifest: Manifest
  payloads: PayloadStore
  dataFolder: string
}

interface HfConfig {
  model_type: string
  hidden_size: number
  intermediate_size: number
  num_hidden_layers: number
  num_attention_heads: number
  num_key_value_heads: number
  vocab_size: number
  max_position_embeddings: number
  rms_norm_eps: number
  rope_theta: number
  tie_word_embeddings: boolean
}

/** Small models for engine tests, without the ingest that has tests of its own. */
export async function modelFromFolder(folder: string, dataFolder: string): Promise<StoredModel> {
  const payloads = await openFilePayloadStore(join(dataFolder, 'payloads'))
  const file = await readFile(join(folder, 'model.safetensors'))
  const config = JSON.parse(await readFile(join(folder, 'config.json'), 'utf8')) as HfConfig
  const headerBytes = Number(file.readBigUInt64LE(0))
  const header = JSON.parse(file.toString('utf8', 8, 8 + headerBytes)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >
  const tensors: Manifest['tensors'] = []
  for (const [name, { dtype, shape, data_offsets: offsets }] of Object.entries(header)) {
    if (name === '__metadata__') continue
    const data = file.subarray(8 + headerBytes + offsets[0], 8 + headerBytes + offsets[1])
    const { hash, bytes } = await payloads.put([data])
    tensors.push({
      name,
      dtype,
      shape,
      bytes,
      payload: hash,
      ...describeTensor(config.model_type, 'safetensors', name),
    })
  }
  const tokenizerText = await readFile(join(folder, 'tokenizer.json'))
  const tokenizer = await payloads.put([tokenizerText])
  const manifest: Manifest = {
    manifestVersion: 1,
    format: 'safetensors',
    architecture: config.model_type,
    dimensions: {
      layerCount: config.num_hidden_layers,
      hiddenSize: config.hidden_size,
      intermediateSize: config.intermediate_size,
      attentionHeadCount: config.num_attention_heads,
      keyValueHeadCount: config.num_key_value_heads,
      vocabularySize: config.vocab_size,
      contextLength: config.max_position_embeddings,
      normEpsilon: config.rms_norm_eps,
      ropeTheta: config.rope_theta,
      ropeLayout: 'half',
      tiedEmbeddings: config.tie_word_embeddings,
    },
    parameterCount: tensors.reduce((sum, t) => sum + t.shape.reduce((a, b) => a * b, 1), 0),
    tensors,
    tokenizer: {
      tokenizerJson: tokenizer.hash,
      kind: 'BPE',
      vocabularySize: config.vocab_size,
      bosTokenId: 1,
      eosTokenIds: [2],
      unknownTokenId: 0,
      addBos: true,
    },
  }
  return { manifest, payloads, dataFolder }
}
