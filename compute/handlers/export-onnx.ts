// A model of any source as an ONNX graph with its weights beside it, under the names that transformers.js and onnxruntime-genai look for.
import { DomainError } from '../../lib/errors.js'
import type { Manifest, ManifestTensor } from '../../lib/manifest.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import type { ResolvedDimensions } from '../architectures/architecture.js'
import { type BuildableModel, checkBuildable } from '../architectures/registry.js'
import { elementCount, readTensorFloat32, type StoredTensor } from '../formats/float-weights.js'
import { ggmlTypeByName, isQuantized } from '../formats/ggml-types.js'
import { matrixForm } from '../formats/quantised-weights.js'
import { isExternal } from '../graph/ir.js'
import type { LocateWeight } from '../inference/graph-inputs.js'
import { buildModelGraph, kernelHeadSize } from '../inference/model-graph.js'
import { type MatrixOf, onQuantisedKernels } from '../inference/quantised-kernels.js'
import { ropeFrequencies } from '../inference/rope.js'
import { encodeModel } from '../onnx/encode.js'
import type { ExportQuantization } from '../pool/job-types.js'
import { blockStreams } from './block-streams.js'
import { converted, storedStream, type TensorStream } from './tensor-streams.js'

/**
 * How matrices are stored: float32; float16 that sessions turn into float32 when they are made; codes and scales that kernels multiply by.
 * undefined: blocks stay what they are, plain numbers become float32.
 */
export type OnnxWeights = Exclude<ExportQuantization, 'BF16'> | undefined

export interface OnnxExport {
  /** Path of the graph within the folder. */
  graphPath: string
  graph: Uint8Array
  /** What transformers.js calls the variant. */
  variant: Variant
  /** Path of the weights, and what they are in order; each is followed by zeros up to a multiple of 64. */
  dataPath: string
  tensors: TensorStream[]
  /** The model's own tensors as they are written, before blocks are parted into codes and scales. */
  written: TensorStream[]
  /** How many of them are stored in blocks and written out as plain numbers: since that was asked for, or as no kernel takes such blocks. */
  unpacked: number
}

/** File names by what transformers.js calls its variants. */
const graphNames = { fp32: 'model', fp16: 'model_fp16', q8: 'model_quantized', q4: 'model_q4' } as const
type Variant = keyof typeof graphNames

/** As ONNX Runtime wants weights that it maps. */
const alignment = 64
const alignedOnnxBytes = (bytes: number) => Math.ceil(bytes / alignment) * alignment
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
  const streams = ropeStreams(model.dimensions, factors && (await readTensorFloat32(payloads, factors)))
  for (const [role, tensor] of model.tensors) streams.set(role, weightStream(tensor, role, weights, payloads))
  const variant = variantOf([...model.tensors.keys()].map(role => streams.get(role)!))
  const location = `${graphNames[variant]}.onnx_data`
  const tensors: TensorStream[] = []
  let end = 0
  const place = (stream: TensorStream) => {
    const section = { offset: end, length: stream.bytes }
    tensors.push(stream)
    end += alignedOnnxBytes(stream.bytes)
    return section
  }
  const inCodes = new Set<string>()
  /** Whatever no kernel takes in blocks, and vectors: the numbers that are stored, but for a head's own table, which is one with its codes. */
  const plain = (role: string) => {
    const tensor = model.tensors.get(role)
    const planned = streams.get(role)!
    if (!tensor || !isQuantized(planned.dtype)) return place(planned)
    if (inCodes.has(role)) return place(converted(planned, 'F32'))
    streams.set(role, converted(storedStream(tensor, role, payloads), 'F32'))
    return place(streams.get(role)!)
  }
  const unplaced: LocateWeight = role => ({
    ...noPlace,
    type: streams.get(role)!.dtype === 'F16' ? 'float16' : 'float32',
  })
  // As the kernels are to take them, which need not be as they are stored.
  const wanted = new Map(
    [...model.tensors].map(([role, tensor]) => [role, { ...tensor, dtype: streams.get(role)!.dtype }]),
  )
  const roles = new Map([...wanted].map(([role, tensor]) => [tensor as StoredTensor, role]))
  const matrixOf: MatrixOf = async ([tensor]) => {
    const role = roles.get(tensor)!
    inCodes.add(role)
    const { form, parts } = blockStreams(streams.get(role)!)
    const [rows, columns] = tensor.shape as [number, number]
    const [codes, scales, offsets = { offset: 0, length: 0 }] = parts.map(place)
    return { form, rows, columns, path: location, codes: codes!, scales: scales!, offsets }
  }
  const graph = await onQuantisedKernels(
    buildModelGraph(model, 'portable', unplaced),
    { tensors: wanted },
    matrixOf,
    [],
  )
  const constants = graph.constants.map(constant =>
    isExternal(constant.data) && constant.data.location === ''
      ? { ...constant, data: { location, ...plain(constant.name) } }
      : constant,
  )
  const written = [...model.tensors.keys()].map(role => streams.get(role)!)
  const unpacked = [...model.tensors.values()].filter(
    ({ dtype }, i) => isQuantized(dtype) && !isQuantized(written[i]!.dtype),
  ).length
  const [graphPath, dataPath] = [`onnx/${graphNames[variant]}.onnx`, `onnx/${location}`]
  return { graphPath, graph: encodeModel({ ...graph, constants }), variant, dataPath, tensors, written, unpacked }
}

const noPlace = { location: '', offset: 0, length: 0 }

/** By the form that most weights are to have. */
function variantOf(streams: readonly TensorStream[]): Variant {
  const counts: Record<Variant, number> = { fp32: 0, fp16: 0, q8: 0, q4: 0 }
  for (const stream of streams) {
    const form = matrixForm(stream)
    const variant = form ? (form.bits === 4 ? 'q4' : 'q8') : stream.dtype === 'F16' ? 'fp16' : 'fp32'
    counts[variant] += elementCount(stream.shape)
  }
  return (Object.keys(counts) as Variant[]).reduce((most, variant) => (counts[variant] > counts[most] ? variant : most))
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

/** Matrices in the type that was asked for where it divides their rows; vectors, of which there are few, stay float32. */
function weightStream(tensor: ManifestTensor, role: string, weights: OnnxWeights, payloads: PayloadStore) {
  const stored = storedStream(tensor, role, payloads)
  if (tensor.shape.length < 2 || role === 'position_embed') return converted(stored, 'F32')
  if (!weights) return matrixForm(stored) ? stored : converted(stored, 'F32')
  const { blockSize } = ggmlTypeByName(weights)!
  return converted(stored, tensor.shape.at(-1)! % blockSize === 0 ? weights : 'F32')
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

/** `config.json` for transformers.js: which variant there is, and where its weights lie. */
export const transformersJsConfig = ({ graphPath, variant }: OnnxExport) => ({
  dtype: variant,
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
