// GraphQL types of tensors, layers and payloads.
import { Directive, Field, Float, Int, ObjectType } from 'type-graphql'
import type { TensorAtom } from '../../db/entities/index.js'
import { elementCount } from '../../db/models.js'
import { toGlobalId } from '../../lib/ids.js'
import type { TensorSlice as StoredSlice, TensorComponent } from '../../lib/manifest.js'
import { Node, registerValues } from '../build/common-types.js'
import { connectionOf } from '../build/connection.js'
import { type QuantizationType, QuantizationTypeEnum, quantizationOf } from '../build/quantization.js'
import { BigIntScalar, DateTimeScalar } from '../build/schema.js'

export const TensorComponentEnum = registerValues<TensorComponent>(
  'TensorComponent',
  'The part of the network a tensor belongs to.',
  {
    EMBEDDING: 'Token (or position) embedding.',
    ATTENTION: 'Query, key, value and output projections of self-attention.',
    FEED_FORWARD: 'Projections of the feed-forward network.',
    NORM: 'Normalisation weights.',
    LM_HEAD: 'Projection to the vocabulary.',
    OTHER: 'Anything else, e.g. rotary frequencies, and all tensors of an unknown architecture.',
  },
)

@ObjectType({ description: 'Place of a tensor in the network, as coordinates for drawing.' })
export class TensorPosition {
  @Field(() => Float, { description: 'Layer index; -1 before the first layer, layerCount after the last.' })
  x!: number
  @Field(() => Float, { description: 'Component: 0 embedding, 1 attention, 2 feed-forward, 3 norm, 4 head, 5 other.' })
  y!: number
  @Field(() => Float, { description: 'Place among the tensors of its layer and component, from 0.' })
  z!: number
}

@ObjectType({ description: 'Rows or columns from, from + 1 … to - 1.' })
export class IndexRange {
  @Field(() => Int, { description: 'First one, from 0.' })
  from!: number
  @Field(() => Int, { description: 'The one after the last.' })
  to!: number
}

@ObjectType({ description: 'Which part of which tensor of a parent a pruned tensor is.' })
export class TensorSlice {
  @Field(() => String, { description: 'Name of the parent’s tensor.' })
  tensor!: string
  @Field(() => String, { description: 'SHA-256 of the bytes of the parent’s tensor.' })
  payloadHash!: string
  @Field(() => [Int], { description: 'Dimensions of the parent’s tensor, row-major.' })
  shape!: number[]
  @Field(() => [[IndexRange]], {
    description: 'By axis the ranges that were kept, in order; all of an axis is one range.',
  })
  kept!: IndexRange[][]
  @Field(() => Boolean, { description: 'Whether its values were changed afterwards: fitted or trained.' })
  changed!: boolean
}

const toSlice = ({ tensor, payload, shape, kept, changed = false }: StoredSlice): TensorSlice =>
  Object.assign(new TensorSlice(), {
    tensor,
    payloadHash: payload,
    shape,
    kept: kept.map((ranges, axis) => (ranges ?? [[0, shape[axis]!]]).map(([from, to]) => ({ from, to }))),
    changed,
  })

@Directive('@key(fields: "id")')
@ObjectType('Tensor', {
  implements: Node,
  description: 'A named tensor of a model. Its bytes are a payload that other tensors may share.',
})
export class Tensor extends Node {
  readonly row!: TensorAtom

  @Field(() => String, { description: 'Name in the convention of the model’s source.' })
  name!: string
  @Field(() => Int, { nullable: true, description: 'Layer, from 0; null outside the layers.' })
  layerIndex!: number | null
  @Field(() => TensorComponentEnum, { description: 'Part of the network.' })
  component!: TensorComponent
  @Field(() => [Int], { description: 'Dimensions, row-major: outermost first.' })
  shape!: number[]
  @Field(() => BigIntScalar, { description: 'Number of elements: the product of the shape.' })
  parameterCount!: number
  @Field(() => String, { description: 'How elements are stored, as the source names it.' })
  dtype!: string
  @Field(() => QuantizationTypeEnum, { nullable: true, description: 'Quantisation of its elements.' })
  quantization!: QuantizationType
  @Field(() => BigIntScalar, { description: 'Bytes of its payload.' })
  sizeBytes!: number
  @Field(() => String, { description: 'SHA-256 of its bytes (64 lower-case hexadecimal digits).' })
  payloadHash!: string
  @Field(() => TensorPosition, { description: 'Place in the network.' })
  position!: TensorPosition
  @Field(() => TensorSlice, {
    nullable: true,
    description: 'On pruned models: which part of a parent’s tensor it is; null on whole tensors.',
  })
  slice!: TensorSlice | null
}

export const toTensor = (row: TensorAtom): Tensor =>
  Object.assign(new Tensor(), {
    row,
    id: toGlobalId('Tensor', row.id),
    name: row.name,
    layerIndex: row.layerIndex,
    component: row.component,
    shape: row.shape,
    parameterCount: elementCount(row.shape),
    dtype: row.dtype,
    quantization: quantizationOf(row.dtype),
    sizeBytes: row.sizeBytes,
    payloadHash: row.payloadHash,
    position: Object.assign(new TensorPosition(), { x: row.positionX, y: row.positionY, z: row.positionZ }),
    slice: row.slice && toSlice(row.slice),
  })

export const TensorConnection = connectionOf('Tensor', () => Tensor)

@ObjectType({ description: 'One transformer layer of a model.' })
export class Layer {
  @Field(() => Int, { description: 'Place in the model, from 0.' })
  index!: number
  @Field(() => BigIntScalar, { description: 'Parameters of its tensors.' })
  parameterCount!: number
  @Field(() => BigIntScalar, { description: 'Bytes of its tensors, shared or not.' })
  sizeBytes!: number
  @Field(() => [Tensor], { description: 'Its tensors, in the order of the manifest.' })
  tensors!: Tensor[]
}

/** Layers in order from a model's tensors. */
export function toLayers(tensors: readonly Tensor[]): Layer[] {
  const byIndex = new Map<number, Tensor[]>()
  for (const t of tensors)
    if (t.layerIndex !== null) byIndex.set(t.layerIndex, [...(byIndex.get(t.layerIndex) ?? []), t])
  return [...byIndex]
    .sort(([a], [b]) => a - b)
    .map(([index, members]) =>
      Object.assign(new Layer(), {
        index,
        parameterCount: members.reduce((sum, t) => sum + t.parameterCount, 0),
        sizeBytes: members.reduce((sum, t) => sum + t.sizeBytes, 0),
        tensors: members,
      }),
    )
}

@ObjectType({ description: 'Bytes of tensors, stored once under their hash.' })
export class Payload {
  @Field(() => String, { description: 'SHA-256 of the bytes (64 lower-case hexadecimal digits).' })
  hash!: string
  @Field(() => BigIntScalar, { description: 'Size in bytes.' })
  sizeBytes!: number
  @Field(() => Int, { description: 'How many tensors refer to it, over all models.' })
  referenceCount!: number
  @Field(() => DateTimeScalar, { description: 'When the first model that refers to it was registered.' })
  createdAt!: Date
}
