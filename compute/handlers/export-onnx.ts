// A model of any source as an ONNX graph with its weights beside it, under the names that transformers.js and onnxruntime-genai look for.
import { DomainError } from '../../lib/errors.js'
import type { Manifest, ManifestTensor } from '../../lib/manifest.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import type { ResolvedDimensions } from '../architectures/architecture.js'
import { type BuildableModel, checkBuildable } from '../architectures/registry.js'
import { readTensorFloat32 } from '../formats/float-weights.js'
import type { ElementType, Graph } from '../graph/ir.js'
import type { LocateWeight } from '../inference/graph-inputs.js'
import { buildModelGraph, kernelHeadSize } from '../inference/model-graph.js'
import { ropeFrequencies } from '../inference/rope.js'
import { encodeModel } from '../onnx/encode.js'
import { converted, storedStream, type TensorStream } from './tensor-streams.js'

/** How weights are stored: float32, or float16 that sessions turn into float32 when they are made. */
export type OnnxWeights = 'F32' | 'F16'

export interface OnnxExport {
  /** Path of the graph within the folder; transformers.js takes the variant from the name. */
  graphPath: string
  graph: Uint8Array
  /** Path of the weights, and what they are in order; each is followed by zeros up to a multiple of 64. */
  dataPath: string
  tensors: TensorStream[]
}

/** As ONNX Runtime wants weights that it maps. */
const alignment = 64
const alignedOnnxBytes = (bytes: number) => Math.ceil(bytes / alignment) * alignment
const graphNames: Readonly<Record<OnnxWeights, string>> = { F32: 'model', F16: 'model_fp16' }
/** Positions of RoPE tables that are computed at once. */
const tableStep = 1024

/**
 * Plans the files; of the weights nothing is read but the factors of RoPE frequencies, where there are any.
 * @throws DomainError UNSUPPORTED_ARCHITECTURE, MISSING_TENSOR, SHAPE_MISMATCH, UNSUPPORTED_FORMAT naming what a graph for others cannot say
 */
export async function planOnnx(
  manifest: Manifest,
  name: string,
  weights: OnnxWeights,
  payloads: PayloadStore,
): Promise<OnnxExport> {
  const model = checkBuildable(manifest)
  checkPortable(model, name)
  const factors = model.tensors.get('rope_factors')
  const tables = ropeStreams(model.dimensions, factors && (await readTensorFloat32(payloads, factors)))
  const base = graphNames[weights]
  const location = `${base}.onnx_data`
  const tensors: TensorStream[] = []
  const places = new Map<string, ReturnType<LocateWeight>>()
  let end = 0
  const locate: LocateWeight = role => {
    const known = places.get(role)
    if (known) return known
    const stream = tables.get(role) ?? weightStream(model.tensors.get(role)!, role, weights, payloads)
    const place = { location, offset: end, length: stream.bytes, type: onnxType(stream) }
    tensors.push(stream)
    places.set(role, place)
    end += alignedOnnxBytes(stream.bytes)
    return place
  }
  const graph: Graph = buildModelGraph(model, 'portable', locate)
  return { graphPath: `onnx/${base}.onnx`, graph: encodeModel(graph), dataPath: `onnx/${location}`, tensors }
}

/** Bytes of the weights' file. */
export const onnxBytes = ({ tensors }: OnnxExport) => tensors.reduce((sum, t) => sum + alignedOnnxBytes(t.bytes), 0)

/** The weights' file in order. */
export async function* onnxChunks({ tensors }: OnnxExport, signal: AbortSignal): AsyncIterable<Uint8Array> {
  for (const tensor of tensors) {
    yield* tensor.chunks(signal)
    const padding = alignedOnnxBytes(tensor.bytes) - tensor.bytes
    if (padding > 0) yield new Uint8Array(padding)
  }
}

const onnxType = ({ dtype }: TensorStream): ElementType => (dtype === 'F16' ? 'float16' : 'float32')

/** Matrices in the type that was asked for; vectors, of which there are few, stay float32. */
function weightStream(tensor: ManifestTensor, role: string, weights: OnnxWeights, payloads: PayloadStore) {
  const stored = storedStream(tensor, role, payloads)
  return converted(stored, tensor.shape.length < 2 ? 'F32' : weights)
}

/** @throws UNSUPPORTED_FORMAT naming the number that programs which run such graphs take to be one for all layers, or a multiple of 8 */
function checkPortable({ dimensions: d, architecture }: BuildableModel, name: string): void {
  const refuse = (message: string) => {
    throw new DomainError('UNSUPPORTED_FORMAT', `${name} (${architecture.name}): ${message}`, {
      field: ['input', 'format'],
    })
  }
  const counts = d.perLayer?.map(layer => layer.keyValueHeadCount) ?? []
  if (new Set(counts).size > 1)
    refuse(
      `its layers have different numbers of key/value heads (${counts.join(', ')}), and programs that run ONNX models take one number for all; GGUF can say it, for llama models`,
    )
  if (kernelHeadSize(d.headSize) !== d.headSize)
    refuse(
      `its heads have size ${d.headSize}, and the attention kernel of ONNX Runtime takes multiples of 8 only; SAFETENSORS and GGUF can say it`,
    )
}

/** `rope_cos` and `rope_sin` [context length, head size / 2], float32, a thousand positions at a time. */
function ropeStreams(d: ResolvedDimensions, factors: Float32Array | undefined): Map<string, TensorStream> {
  const frequencies = () => ropeFrequencies(d).map((f, i) => f / (factors?.[i] ?? 1))
  const shape = [d.contextLength, d.headSize / 2]
  const table = (name: string, of: (angle: number) => number): TensorStream => ({
    ...{ name, shape, dtype: 'F32', bytes: shape[0]! * shape[1]! * 4 },
    async *chunks(signal) {
      const steps = frequencies()
      for (let from = 0; from < d.contextLength; from += tableStep) {
        signal.throwIfAborted()
        const count = Math.min(tableStep, d.contextLength - from)
        const values = new Float32Array(count * steps.length)
        for (let i = 0; i < values.length; i++) {
          const position = from + Math.floor(i / steps.length)
          values[i] = of(position * steps[i % steps.length]!)
        }
        yield new Uint8Array(values.buffer)
      }
    },
  })
  return new Map([
    ['rope_cos', table('rope_cos', Math.cos)],
    ['rope_sin', table('rope_sin', Math.sin)],
  ])
}

/** `config.json` for transformers.js: where the weights lie. */
export const transformersJsConfig = ({ graphPath }: OnnxExport) => ({
  use_external_data_format: { [graphPath.slice('onnx/'.length)]: 1 },
})

/** Model types of onnxruntime-genai; every other decoder is a `decoder` to it. */
const genaiTypes = ['llama', 'mistral', 'qwen2', 'qwen3', 'gemma']

/** `genai_config.json` (https://onnxruntime.ai/docs/genai/reference/config.html). */
export function genaiConfig(manifest: Manifest, { graphPath }: OnnxExport) {
  const { architecture, dimensions: d } = checkBuildable(manifest)
  const { bosTokenId, eosTokenIds = [], padTokenId } = manifest.tokenizer ?? {}
  const pad = padTokenId ?? eosTokenIds[0] ?? 0
  return {
    model: {
      type: genaiTypes.includes(architecture.name) ? architecture.name : 'decoder',
      ...(bosTokenId === undefined ? {} : { bos_token_id: bosTokenId }),
      eos_token_id: eosTokenIds.length === 1 ? eosTokenIds[0] : eosTokenIds,
      pad_token_id: pad,
      vocab_size: d.vocabularySize,
      context_length: d.contextLength,
      decoder: {
        session_options: { log_id: 'onnxruntime-genai', provider_options: [] },
        filename: graphPath,
        head_size: d.headSize,
        hidden_size: d.hiddenSize,
        num_attention_heads: d.attentionHeadCount,
        num_hidden_layers: d.layerCount,
        num_key_value_heads: d.keyValueHeadCount,
        inputs: {
          input_ids: 'input_ids',
          attention_mask: 'attention_mask',
          position_ids: 'position_ids',
          past_key_names: 'past_key_values.%d.key',
          past_value_names: 'past_key_values.%d.value',
        },
        outputs: { logits: 'logits', present_key_names: 'present.%d.key', present_value_names: 'present.%d.value' },
      },
    },
    search: {
      do_sample: false,
      max_length: d.contextLength,
      min_length: 0,
      num_beams: 1,
      num_return_sequences: 1,
      past_present_share_buffer: false,
      repetition_penalty: 1,
      temperature: 1,
      top_k: 1,
      top_p: 1,
    },
  }
}
