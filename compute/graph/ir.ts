// The graph as plain data: values with a type and a shape, nodes that compute them, constants inline or in payload files.

export type ElementType = 'float32' | 'float16' | 'int64' | 'int32' | 'uint8' | 'bool'

/** A number, or the name of a size known only when the graph runs (`tokens`). */
export type Dimension = number | string

export interface Value {
  readonly name: string
  readonly type: ElementType
  readonly shape: readonly Dimension[]
}

export type AttributeValue = number | string | readonly number[]

export interface GraphNode {
  readonly op: string
  /** null: an optional input that is not given. */
  readonly inputs: readonly (Value | null)[]
  /** null: an optional output that nobody asked for. */
  readonly outputs: readonly (Value | null)[]
  readonly attributes: Readonly<Record<string, AttributeValue>>
}

/** Bytes of a file below the weights folder; ONNX Runtime maps them, so nothing is copied. */
export interface ExternalData {
  /** Relative to the weights folder, inside it, no symbolic link. */
  readonly location: string
  readonly offset: number
  readonly length: number
}

export interface Constant extends Value {
  readonly data: Float32Array | BigInt64Array | Int32Array | ExternalData
}

export interface Graph {
  readonly name: string
  readonly inputs: readonly Value[]
  readonly outputs: readonly Value[]
  readonly constants: readonly Constant[]
  /** In an order in which every input is made before it is used. */
  readonly nodes: readonly GraphNode[]
}

export const isExternal = (data: Constant['data']): data is ExternalData => 'location' in data
