// The other way to calibrate, for comparison only: before rounding to nearest, columns are scaled by how large their inputs are, to a power that
// leaves the least squared error of the layer's output (AWQ's search of scales, Lin et al. 2023, arXiv 2306.00978; without its search of clipping).
// Scales are undone in the values, which are kept as float32: in a product they would be folded into what comes before.

import { checkBuildable } from '../../compute/architectures/registry.js'
import { dequantize } from '../../compute/formats/dequantize.js'
import { readTensorFloat32 } from '../../compute/formats/float-weights.js'
import { readManifest, writeManifest } from '../../compute/formats/manifest.js'
import { quantize } from '../../compute/formats/quantize.js'
import { loadTokenizer } from '../../compute/formats/tokenizer.js'
import { calibrationSequences } from '../../compute/handlers/calibration-sequences.js'
import type { HandlerContext } from '../../compute/handlers/handler.js'
import { openCalibration } from '../../compute/inference/calibration.js'
import { multiplyAddSession } from '../../compute/surgery/quantise-matrix.js'
import type { ManifestTensor } from '../../lib/manifest.js'

const powers = Array.from({ length: 11 }, (_, i) => i / 10)

/** The manifest with every linear layer of the blocks rounded to Q4_0 so, and the head to Q8_0. */
export async function scaledByActivations(
  hash: string,
  probeSet: string,
  tokens: number,
  context: HandlerContext,
): Promise<string> {
  const { payloads, dataFolder, env, signal } = context
  const source = await readManifest(payloads, hash)
  const first = checkBuildable(source)
  const tokenizer = await loadTokenizer(source, payloads)
  const { contextLength } = first.dimensions
  const sequences = await calibrationSequences(await payloads.get(probeSet), tokenizer, contextLength, tokens)
  const tensors = new Map(first.tensors)
  const model = { ...first, tensors }
  const calibration = await openCalibration(first, sequences, context)
  const product = await multiplyAddSession({ weightsFolder: dataFolder, threads: env.HARTONOMOUS_THREADS })
  const store = async (role: string, values: Float32Array) => {
    const stored = await payloads.put([new Uint8Array(values.buffer, values.byteOffset, values.byteLength)])
    const tensor = { ...first.tensors.get(role)!, dtype: 'F32', bytes: values.byteLength, payload: stored.hash }
    tensors.set(role, tensor satisfies ManifestTensor)
  }
  const round = (values: Float32Array, type: string) => {
    const rounded = new Float32Array(values.length)
    dequantize(type, quantize(type, values), rounded)
    return rounded
  }
  try {
    let state = await calibration.embed(model)
    for (let layer = 0; layer < first.dimensions.layerCount; layer++) {
      signal.throwIfAborted()
      const byGram = new Map<Float32Array, string[]>()
      for (const [role, gram] of await calibration.layerGrams(model, layer, state))
        byGram.set(gram, [...(byGram.get(gram) ?? []), role])
      for (const [gram, roles] of byGram) {
        const columns = first.tensors.get(roles[0]!)!.shape[1]!
        const root = Float32Array.from({ length: columns }, (_, i) =>
          Math.sqrt(Math.max(gram[i * columns + i]! / calibration.tokens, 1e-12)),
        )
        const wanted = await Promise.all(roles.map(role => readTensorFloat32(payloads, first.tensors.get(role)!)))
        let best: { error: number; made: Float32Array[] } | undefined
        for (const power of powers) {
          const scales = root.map(x => x ** power)
          const [least, most] = [Math.min(...scales), Math.max(...scales)]
          const scale = scales.map(x => x / Math.sqrt(least * most))
          const made = wanted.map(values => {
            const rounded = round(
              values.map((x, i) => x * scale[i % columns]!),
              'Q4_0',
            )
            return rounded.map((x, i) => x / scale[i % columns]!)
          })
          let error = 0
          for (const [i, values] of made.entries()) {
            const rows = values.length / columns
            const off = values.map((x, at) => x - wanted[i]![at]!)
            const zero = new Float32Array(off.length)
            const through = await product.multiplyAdd(off, gram, zero, { m: rows, k: columns, n: columns })
            for (let at = 0; at < off.length; at++) error += off[at]! * through[at]!
          }
          if (!best || error < best.error) best = { error, made }
        }
        for (const [i, role] of roles.entries()) await store(role, best!.made[i]!)
      }
      state = await calibration.layer(model, layer, state)
      context.progress({ stage: 'scale', completed: layer + 1, total: first.dimensions.layerCount, unit: 'layers' })
    }
    const head = first.dimensions.tiedEmbeddings ? 'embed' : 'lm_head'
    await store(head, round(await readTensorFloat32(payloads, first.tensors.get(head)!), 'Q8_0'))
  } finally {
    await product.dispose()
  }
  const byName = new Map([...tensors.values()].map(tensor => [tensor.name, tensor]))
  const { sourceFiles: _ofTheSource, ...rest } = source
  return (await writeManifest(payloads, { ...rest, tensors: rest.tensors.map(t => byName.get(t.name) ?? t) })).hash
}
