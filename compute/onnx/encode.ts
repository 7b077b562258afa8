// Writes a Graph as an ONNX model file: protobuf by hand, field numbers from onnx.proto (IR version 10, opset 21).
import {
  type AttributeValue,
  type Constant,
  type ElementType,
  type Graph,
  type GraphNode,
  isExternal,
  type Value,
} from '../graph/ir.js'
import { type AttributeKind, type OpDefinition, ops } from '../ops/table.js'

/** TensorProto.DataType */
const dataTypes: Record<ElementType, number> = { float32: 1, uint8: 2, int32: 6, int64: 7, bool: 9, float16: 10 }
const irVersion = 10
const opsetVersion = 21

/** Collects protobuf fields as chunks; payload views are not copied before `finish`. */
class MessageWriter {
  private readonly chunks: Uint8Array[] = []
  private pending: number[] = []
  private length = 0

  private flush() {
    if (this.pending.length > 0) this.chunks.push(Uint8Array.from(this.pending))
    this.pending = []
  }
  private varint(value: number | bigint) {
    let rest = BigInt.asUintN(64, BigInt(value))
    do {
      const low = Number(rest & 127n)
      rest >>= 7n
      this.pending.push(rest > 0n ? low | 128 : low)
      this.length++
    } while (rest > 0n)
  }
  int(field: number, value: number | bigint): this {
    this.varint(field * 8)
    this.varint(value)
    return this
  }
  float(field: number, value: number): this {
    this.varint(field * 8 + 5)
    this.pending.push(...new Uint8Array(Float32Array.of(value).buffer))
    this.length += 4
    return this
  }
  bytes(field: number, value: Uint8Array): this {
    this.varint(field * 8 + 2)
    this.varint(value.length)
    this.flush()
    this.chunks.push(value)
    this.length += value.length
    return this
  }
  text(field: number, value: string): this {
    return this.bytes(field, Buffer.from(value, 'utf8'))
  }
  message(field: number, value: MessageWriter): this {
    return this.bytes(field, value.finish())
  }
  finish(): Uint8Array {
    this.flush()
    const result = new Uint8Array(this.length)
    let offset = 0
    for (const chunk of this.chunks) {
      result.set(chunk, offset)
      offset += chunk.length
    }
    return result
  }
}

function valueInfo({ name, type, shape }: Value): MessageWriter {
  const dimensions = new MessageWriter()
  for (const size of shape) {
    const dimension = new MessageWriter()
    dimensions.message(1, typeof size === 'number' ? dimension.int(1, size) : dimension.text(2, size))
  }
  const tensor = new MessageWriter().int(1, dataTypes[type]).message(2, dimensions)
  return new MessageWriter().text(1, name).message(2, new MessageWriter().message(1, tensor))
}

function tensor({ name, type, shape, data }: Constant): MessageWriter {
  const message = new MessageWriter()
  for (const size of shape) message.int(1, BigInt(size))
  message.int(2, dataTypes[type]).text(8, name)
  if (!isExternal(data)) return message.bytes(9, new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
  for (const key of ['location', 'offset', 'length'] as const) {
    message.message(13, new MessageWriter().text(1, key).text(2, String(data[key])))
  }
  return message.int(14, 1) // data_location = EXTERNAL
}

function attribute(name: string, kind: AttributeKind, value: AttributeValue): MessageWriter {
  const message = new MessageWriter().text(1, name)
  if (kind === 'int') return message.int(3, BigInt(Number(value))).int(20, 2)
  if (kind === 'float') return message.float(2, Number(value)).int(20, 1)
  if (kind === 'ints') {
    for (const item of value as readonly number[]) message.int(8, BigInt(item))
    return message.int(20, 7)
  }
  if (!kind.includes(String(value))) throw new Error(`attribute ${name} is ${value}, not one of ${kind.join(', ')}`)
  return message.text(4, String(value)).int(20, 3)
}

function node({ op, inputs, outputs, attributes }: GraphNode): MessageWriter {
  const definition: OpDefinition | undefined = (ops as Record<string, OpDefinition>)[op]
  if (!definition) throw new Error(`op ${op} is not in the table`)
  const message = new MessageWriter()
  for (const input of inputs) message.text(1, input?.name ?? '')
  for (const output of outputs) message.text(2, output?.name ?? '')
  message.text(3, outputs.find(o => o)?.name ?? op).text(4, op)
  for (const [key, value] of Object.entries(attributes)) {
    const kind = definition.attributes[key]
    if (!kind) throw new Error(`op ${op} has no attribute ${key}`)
    message.message(5, attribute(key, kind, value))
  }
  if (definition.domain) message.text(7, definition.domain)
  return message
}

const opset = (domain: string, version: number) => new MessageWriter().text(1, domain).int(2, version)

/** The bytes of an ONNX model; external constants keep pointing at their files. */
export function encodeModel(graph: Graph): Uint8Array {
  const body = new MessageWriter()
  for (const item of graph.nodes) body.message(1, node(item))
  body.text(2, graph.name)
  for (const constant of graph.constants) body.message(5, tensor(constant))
  for (const input of graph.inputs) body.message(11, valueInfo(input))
  for (const output of graph.outputs) body.message(12, valueInfo(output))
  return new MessageWriter()
    .int(1, irVersion)
    .text(2, 'hartonomous')
    .message(7, body)
    .message(8, opset('', opsetVersion))
    .message(8, opset('com.microsoft', 1))
    .finish()
}
