// GraphQL types of models; the rows behind them ride along for the field resolvers.
import { Directive, Field, Float, ID, Int, ObjectType } from 'type-graphql'
import type { ModelAtom, ModelEvent as ModelEventRow } from '../../db/entities/index.js'
import { toGlobalId } from '../../lib/ids.js'
import type { ManifestTokenizer } from '../../lib/manifest.js'
import { Node } from '../build/common-types.js'
import { connectionOf } from '../build/connection.js'
import { type QuantizationType, QuantizationTypeEnum, quantizationOf } from '../build/quantization.js'
import { BigIntScalar, DateTimeScalar } from '../build/schema.js'

@Directive('@key(fields: "id")')
@ObjectType('Model', {
  implements: Node,
  description:
    'A language model: a manifest over content-addressed tensors. Models share the tensors that are equal byte for byte.',
})
export class Model extends Node {
  readonly row!: ModelAtom

  @Field(() => String, { description: 'Name given at ingestion or by the recipe; need not be unique.' })
  name!: string
  @Field(() => String, { nullable: true, description: 'Version as its owner calls it.' })
  version!: string | null
  @Field(() => String, {
    description: 'Architecture as the source names it: llama, qwen2, gpt2 …; "unknown" where it does not say.',
  })
  architecture!: string
  @Field(() => BigIntScalar, { description: 'Number of parameters, over all tensors.' })
  parameterCount!: number
  @Field(() => Int, { description: 'Number of transformer layers.' })
  layerCount!: number
  @Field(() => Int, { nullable: true, description: 'Attention (query) heads per layer.' })
  attentionHeadCount!: number | null
  @Field(() => Int, {
    nullable: true,
    description: 'Key/value heads per layer; fewer than attention heads where they are shared in groups.',
  })
  keyValueHeadCount!: number | null
  @Field(() => Int, { nullable: true, description: 'Width of the residual stream.' })
  hiddenSize!: number | null
  @Field(() => Int, { nullable: true, description: 'Width inside the feed-forward network.' })
  intermediateSize!: number | null
  @Field(() => Int, { nullable: true, description: 'Number of token ids the model knows.' })
  vocabularySize!: number | null
  @Field(() => Int, { nullable: true, description: 'Longest sequence the model was made for, in tokens.' })
  contextLength!: number | null
  @Field(() => String, { description: 'Dtype of most parameters, as the source names it: F32, BF16, Q4_1 …' })
  dtype!: string
  @Field(() => QuantizationTypeEnum, { nullable: true, description: 'Quantisation of most parameters.' })
  quantization!: QuantizationType
  @Field(() => BigIntScalar, { description: 'Bytes of all its tensors, shared or not.' })
  sizeBytes!: number
  @Field(() => Boolean, { description: 'Whether it was built here from another model.' })
  isStudent!: boolean
  @Field(() => Boolean, { description: 'Whether it serves production traffic.' })
  isProduction!: boolean
  @Field(() => String, { nullable: true, description: 'What a student was built for.' })
  objective!: string | null
  @Field(() => String, {
    nullable: true,
    description: 'Where it was ingested from, as given; null for models built here.',
  })
  source!: string | null
  @Field(() => String, { description: 'SHA-256 of its manifest (64 lower-case hexadecimal digits).' })
  manifestHash!: string
  @Field(() => String, { nullable: true, description: 'Licence as the source states it.' })
  license!: string | null
  @Field(() => DateTimeScalar, { description: 'When it was ingested or built.' })
  createdAt!: Date
  @Field(() => DateTimeScalar, {
    nullable: true,
    description: 'When its weights were last changed by distillation or merging; null if never.',
  })
  lastOptimizedAt!: Date | null
  @Field(() => DateTimeScalar, {
    nullable: true,
    description: 'When it was deleted: it remains visible only as parent or by old jobs and recipes, without tensors.',
  })
  deletedAt!: Date | null
}

export function toModel(row: ModelAtom): Model {
  const { dimensions } = row
  return Object.assign(new Model(), {
    row,
    id: toGlobalId('Model', row.id),
    name: row.name,
    version: row.version,
    architecture: row.architecture,
    parameterCount: row.parameterCount,
    layerCount: row.layerCount,
    attentionHeadCount: dimensions.attentionHeadCount ?? null,
    keyValueHeadCount: dimensions.keyValueHeadCount ?? null,
    hiddenSize: dimensions.hiddenSize ?? null,
    intermediateSize: dimensions.intermediateSize ?? null,
    vocabularySize: dimensions.vocabularySize ?? null,
    contextLength: dimensions.contextLength ?? null,
    dtype: row.dtype,
    quantization: quantizationOf(row.dtype),
    sizeBytes: row.sizeBytes,
    isStudent: row.isStudent,
    isProduction: row.isProduction,
    objective: row.objective,
    source: row.source,
    manifestHash: row.manifestHash,
    license: row.license,
    createdAt: row.createdAt,
    lastOptimizedAt: row.lastOptimizedAt,
    deletedAt: row.deletedAt,
  })
}

export const ModelConnection = connectionOf('Model', () => Model)

/** The job of another subgraph, by its id. */
@Directive('@key(fields: "id", resolvable: false)')
@ObjectType('Job')
export class JobReference {
  @Field(() => ID)
  id!: string
}
export const jobReference = (id: string): JobReference =>
  Object.assign(new JobReference(), { id: toGlobalId('Job', id) })

@ObjectType({ description: 'What happened to a model, one line of its history.' })
export class ModelEvent {
  @Field(() => String, {
    description:
      'INGESTED, BUILT, ANALYZED, FUSED, EXPORTED, DELETED …, and POLICY: what a policy started by itself, or why it did not.',
  })
  kind!: string
  @Field(() => String, { description: 'What happened, in a sentence for people.' })
  description!: string
  @Field(() => JobReference, { nullable: true, description: 'The job that did it.' })
  job!: JobReference | null
  @Field(() => DateTimeScalar, { description: 'When it happened.' })
  createdAt!: Date
}

export const toModelEvent = (row: ModelEventRow): ModelEvent =>
  Object.assign(new ModelEvent(), {
    kind: row.kind,
    description: row.description,
    job: row.jobId ? jobReference(row.jobId) : null,
    createdAt: row.createdAt,
  })

@ObjectType({ description: 'How the model turns text into token ids.' })
export class Tokenizer {
  @Field(() => String, { description: 'Algorithm: BPE, SentencePiece …' })
  kind!: string
  @Field(() => Int, { description: 'Number of tokens, special ones included.' })
  vocabularySize!: number
  @Field(() => Int, { nullable: true, description: 'Token that begins a text.' })
  bosTokenId!: number | null
  @Field(() => [Int], { description: 'Tokens that end a generation; any of them does.' })
  eosTokenIds!: number[]
  @Field(() => Int, { nullable: true, description: 'Token that fills up shorter texts of a batch.' })
  padTokenId!: number | null
  @Field(() => Int, { nullable: true, description: 'Token for what the vocabulary does not have.' })
  unknownTokenId!: number | null
  @Field(() => Boolean, { description: 'Whether a prompt begins with the BOS token.' })
  addBos!: boolean
}

export const toTokenizer = (t: ManifestTokenizer): Tokenizer =>
  Object.assign(new Tokenizer(), {
    kind: t.kind,
    vocabularySize: t.vocabularySize,
    bosTokenId: t.bosTokenId ?? null,
    eosTokenIds: t.eosTokenIds,
    padTokenId: t.padTokenId ?? null,
    unknownTokenId: t.unknownTokenId ?? null,
    addBos: t.addBos,
  })

@ObjectType({ description: 'What sharing tensors saves, over all models that are not deleted.' })
export class StorageReport {
  @Field(() => Int, { description: 'Models that are not deleted.' })
  modelCount!: number
  @Field(() => Int, { description: 'Distinct tensor payloads that models refer to.' })
  payloadCount!: number
  @Field(() => BigIntScalar, { description: 'Bytes of these payloads: each counted once.' })
  storedBytes!: number
  @Field(() => BigIntScalar, { description: 'Bytes the models would take without sharing: the sum of their sizes.' })
  logicalBytes!: number
  @Field(() => BigIntScalar, { description: 'logicalBytes - storedBytes.' })
  savedBytes!: number
  @Field(() => Float, { description: 'logicalBytes / storedBytes; 1 where nothing is stored.' })
  deduplicationRatio!: number
}
