// The manifest: a model as a list of content-addressed tensors. Both planes speak it, so it lies here (docs/decisions/0002).
import { z } from 'zod'
import { fusions } from './fusion.js'

export const tensorComponents = ['EMBEDDING', 'ATTENTION', 'FEED_FORWARD', 'NORM', 'LM_HEAD', 'OTHER'] as const
export type TensorComponent = (typeof tensorComponents)[number]

/** Lower-case hexadecimal SHA-256 of a payload. */
export const hashSchema = z.string().regex(/^[0-9a-f]{64}$/)

/** [from, to) */
const intervalSchema = z.tuple([z.number().int().min(0), z.number().int().min(0)])

/** Which part of a parent's tensor a pruned tensor is: whole rows and columns of it, in order. */
export const tensorSliceSchema = z.object({
  /** The parent's tensor by name, payload and shape. */
  tensor: z.string(),
  payload: hashSchema,
  shape: z.array(z.number().int().min(0)),
  /** Kept ranges along each axis; null: all of it. */
  kept: z.array(z.array(intervalSchema).nullable()),
  /** The values are no longer the parent's: a correction or training changed them. */
  changed: z.boolean().optional(),
})
export type TensorSlice = z.infer<typeof tensorSliceSchema>

/**
 * `dtype` is the source's own name for how elements are stored: SafeTensors (F64 F32 F16 BF16 I64 I32 I16 I8 U8 BOOL F8_E4M3 F8_E5M2 …)
 * or ggml (F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K … Q6_K IQ4_NL …). Quantised dtypes are the ggml block types.
 */
export const manifestTensorSchema = z.object({
  /** Name in the source's own convention, re-indexed in students. */
  name: z.string().min(1),
  /** Place in the architecture, independent of naming: `embed`, `final_norm`, `lm_head`, `layers.3.q`; absent where unknown. */
  role: z.string().optional(),
  layerIndex: z.number().int().min(0).nullable(),
  component: z.enum(tensorComponents),
  /** Row-major, outermost first (GGUF's reversed order is turned round on reading). */
  shape: z.array(z.number().int().min(0)),
  dtype: z.string(),
  /** Bytes of the payload. */
  bytes: z.number().int().min(0),
  /** SHA-256 of the stored bytes. */
  payload: hashSchema,
  slice: tensorSliceSchema.optional(),
})
export type ManifestTensor = z.infer<typeof manifestTensorSchema>

/** Dimensions in one vocabulary for all sources; what a source does not say is absent. */
export const dimensionsSchema = z.object({
  layerCount: z.number().int().min(0),
  hiddenSize: z.number().int().positive().optional(),
  intermediateSize: z.number().int().positive().optional(),
  attentionHeadCount: z.number().int().positive().optional(),
  keyValueHeadCount: z.number().int().positive().optional(),
  headSize: z.number().int().positive().optional(),
  vocabularySize: z.number().int().positive().optional(),
  contextLength: z.number().int().positive().optional(),
  /** RMSNorm epsilon. */
  normEpsilon: z.number().positive().optional(),
  ropeTheta: z.number().positive().optional(),
  /** How q/k rows pair up for RoPE: HF files `half` (i, i + d/2), GGUF llama files `interleaved` (2i, 2i + 1). */
  ropeLayout: z.enum(['half', 'interleaved']).optional(),
  /** RoPE scaling as the source states it (HF `rope_scaling` keys). */
  ropeScaling: z.record(z.string(), z.unknown()).optional(),
  tiedEmbeddings: z.boolean().optional(),
  /** Tokens a position may look back (Mistral's `sliding_window`); absent: all. */
  slidingWindow: z.number().int().positive().optional(),
  /** Sizes by layer where layers differ (pruned models); the fields above are then the largest. */
  perLayer: z
    .array(
      z.object({
        attentionHeadCount: z.number().int().positive(),
        keyValueHeadCount: z.number().int().positive(),
        intermediateSize: z.number().int().positive(),
      }),
    )
    .optional(),
})
export type Dimensions = z.infer<typeof dimensionsSchema>

export const manifestTokenizerSchema = z.object({
  /** Payload: a Hugging Face tokenizer.json (built from the metadata for GGUF). */
  tokenizerJson: hashSchema,
  /** Payload: tokenizer_config.json, where the source has one or one was built. */
  tokenizerConfig: hashSchema.optional(),
  /** `BPE`, `SentencePiece`, … for people. */
  kind: z.string(),
  vocabularySize: z.number().int().positive(),
  bosTokenId: z.number().int().min(0).optional(),
  /** Generation stops at any of these. */
  eosTokenIds: z.array(z.number().int().min(0)),
  padTokenId: z.number().int().min(0).optional(),
  unknownTokenId: z.number().int().min(0).optional(),
  /** Whether a prompt begins with the BOS token. */
  addBos: z.boolean(),
})
export type ManifestTokenizer = z.infer<typeof manifestTokenizerSchema>

/** A file of the source: its header as a payload, so that it can be written out again byte for byte. */
export const sourceFileSchema = z.object({
  name: z.string(),
  bytes: z.number().int().min(0),
  /** Payload: everything before the tensor data (GGUF header and metadata, SafeTensors length and JSON); whole file where it holds no tensors. */
  header: hashSchema,
  /** Where each tensor of this file begins, in bytes from the start of the file; gaps are zero bytes unless named below. Empty for files without tensors. */
  tensors: z.array(z.object({ name: z.string(), offset: z.number().int().min(0) })),
  /** Gaps that hold other bytes than zero, as payloads. */
  gaps: z.array(z.object({ offset: z.number().int().min(0), payload: hashSchema })).optional(),
})

/** Low-rank changes that were merged into a model's weights, kept so that they can be written as an adapter of what the model was before. */
export const adapterSchema = z.object({
  rank: z.number().int().positive(),
  alpha: z.number().positive(),
  /** The manifest of the model before the changes; absent in manifests of earlier versions. */
  of: hashSchema.optional(),
  changes: z.array(
    z.object({
      role: z.string(),
      /** The tensor before, and the payload of its values after. */
      base: manifestTensorSchema,
      merged: hashSchema,
      /** Payloads of float32 [rank, in] and [out, rank]. */
      a: hashSchema,
      b: hashSchema,
    }),
  ),
})
export type Adapter = z.infer<typeof adapterSchema>

export const manifestSchema = z.object({
  manifestVersion: z.literal(1),
  format: z.enum(['safetensors', 'gguf']),
  /** `llama`, `gpt2`, …: HF model_type or GGUF general.architecture; `unknown` where the source does not say. */
  architecture: z.string(),
  dimensions: dimensionsSchema,
  parameterCount: z.number().int().min(0),
  tensors: z.array(manifestTensorSchema),
  tokenizer: manifestTokenizerSchema.optional(),
  chatTemplate: z.string().optional(),
  license: z.string().optional(),
  /** Name the source gives itself. */
  sourceName: z.string().optional(),
  /** Original files; absent on models built here. */
  sourceFiles: z.array(sourceFileSchema).optional(),
  /** Payload of config.json (HF) where there was one; GGUF metadata without the token lists otherwise, as JSON. */
  sourceConfig: hashSchema.optional(),
  /** Settings of the source's configuration that the engine does not do, as `field value`: such a model is kept and exported, not run. */
  unsupported: z.array(z.string()).min(1).optional(),
  /** On models quantised here: the manifest with the values before, tensor by tensor the same but for their types. */
  quantisedFrom: hashSchema.optional(),
  /** On models trained by low-rank changes that were to be kept. */
  adapter: adapterSchema.optional(),
  /** What of its graph is computed together when it generates, beyond what the engine always does. */
  fusions: z.array(z.enum(fusions)).min(1).optional(),
  /** On models fused here: the manifest before, which gives the model back as it was. */
  fusedFrom: hashSchema.optional(),
  /** On models built here: the manifest they come from and which of its layers they keep, in order. */
  parent: z
    .object({
      manifest: hashSchema,
      layers: z.array(z.number().int().min(0)),
      /** The manifest each layer is of, where not all are of the parent. */
      sources: z.array(hashSchema).optional(),
    })
    .optional(),
})
export type Manifest = z.infer<typeof manifestSchema>

/** Every payload a manifest needs, itself not included, with what it is in the model (`tensor x`), and its size where the manifest says it. */
export function manifestParts(manifest: Manifest): { payload: string; part: string; bytes?: number }[] {
  const { tokenizer, sourceConfig } = manifest
  const optional = (payload: string | undefined, part: string) => (payload ? [{ payload, part }] : [])
  return [
    ...manifest.tensors.map(({ name, bytes, payload }) => ({ payload, part: `tensor ${name}`, bytes })),
    ...(manifest.sourceFiles ?? []).flatMap(file => [
      { payload: file.header, part: file.tensors.length > 0 ? `header of ${file.name}` : file.name },
      ...(file.gaps ?? []).map(gap => ({ payload: gap.payload, part: `padding of ${file.name}` })),
    ]),
    ...(manifest.adapter?.changes ?? []).flatMap(({ base, a, b }) => [
      { payload: base.payload, part: `tensor ${base.name} before its change`, bytes: base.bytes },
      { payload: a, part: `low-rank change of ${base.name}` },
      { payload: b, part: `low-rank change of ${base.name}` },
    ]),
    ...optional(tokenizer?.tokenizerJson, 'tokenizer'),
    ...optional(tokenizer?.tokenizerConfig, 'tokenizer configuration'),
    ...optional(sourceConfig, 'configuration'),
  ]
}

/** Every payload a manifest needs, itself not included: tensors, headers, tokenizer and config files. */
export const manifestPayloads = (manifest: Manifest): Set<string> =>
  new Set(manifestParts(manifest).map(({ payload }) => payload))
