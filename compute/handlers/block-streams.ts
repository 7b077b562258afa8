// Stored blocks on their way into the layout of quantised kernels: all codes, then all scales, then all offsets of a matrix.
import { ggmlTypeByName } from '../formats/ggml-types.js'
import { type QuantisedBlocks, unpackBlocks } from '../formats/quantised-blocks.js'
import { matrixForm, type QuantisedMatrix } from '../formats/quantised-weights.js'
import { inPieces, type TensorStream } from './tensor-streams.js'

/** Blocks unpacked at once: some hundred thousand weights. */
const stepBlocks = 4096

type Part = keyof QuantisedBlocks

/** The parts that the form has, each a pass over the stream. */
export function blockStreams(stream: TensorStream): { form: QuantisedMatrix['form']; parts: TensorStream[] } {
  const form = matrixForm(stream)
  const type = ggmlTypeByName(stream.dtype)
  if (!form || !type) throw new Error(`tensor ${stream.name}: ${stream.dtype} [${stream.shape}] has no quantised form`)
  const [rows, columns] = stream.shape as [number, number]
  const blocks = columns / form.blockSize
  const part = (name: Part, dtype: string, shape: number[], bytes: number): TensorStream => ({
    ...{ name: `${stream.name}.${name}`, dtype, shape, bytes },
    async *chunks(signal) {
      for await (const piece of inPieces(stream.chunks(signal), stepBlocks * type.blockBytes)) {
        signal.throwIfAborted()
        const count = (piece.length / type.blockBytes) * type.blockSize
        const values = unpackBlocks(stream.dtype, piece, count, type)[name]
        yield new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
      }
    },
  })
  const codes = part('codes', 'U8', [rows, (columns * form.bits) / 8], (rows * columns * form.bits) / 8)
  const scales = part('scales', 'F32', [rows, blocks], rows * blocks * 4)
  const offsets = part('offsets', 'F32', [rows, blocks], rows * blocks * 4)
  return { form, parts: form.offsets ? [codes, scales, offsets] : [codes, scales] }
}
