// A Llama-shaped model of any size with seeded random weights in bfloat16, written as a stream: what `bench bigger-than-memory` works on.
import { copyFile, mkdir, open, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { writeSafetensorsHeader } from '../../compute/formats/safetensors.js'
import { seededRandom } from '../../compute/inference/sampling.js'
import { projectFile } from '../../lib/project.js'

const hidden = 3072
const intermediate = 8192
const heads = 24
const keyValueHeads = 8
const vocabulary = 512
const headSize = hidden / heads

interface Spec {
  name: string
  dtype: string
  shape: number[]
  bytes: number
}

const spec = (name: string, ...shape: number[]): Spec => ({
  name,
  dtype: 'BF16',
  shape,
  bytes: 2 * shape.reduce((product, size) => product * size, 1),
})

const layer = (index: number): Spec[] => {
  const at = (name: string) => `model.layers.${index}.${name}.weight`
  return [
    spec(at('input_layernorm'), hidden),
    spec(at('self_attn.q_proj'), heads * headSize, hidden),
    spec(at('self_attn.k_proj'), keyValueHeads * headSize, hidden),
    spec(at('self_attn.v_proj'), keyValueHeads * headSize, hidden),
    spec(at('self_attn.o_proj'), hidden, heads * headSize),
    spec(at('post_attention_layernorm'), hidden),
    spec(at('mlp.gate_proj'), intermediate, hidden),
    spec(at('mlp.up_proj'), intermediate, hidden),
    spec(at('mlp.down_proj'), hidden, intermediate),
  ]
}
const sum = (specs: readonly Spec[]) => specs.reduce((total, { bytes }) => total + bytes, 0)

/** Float32 bytes of one layer's weights. */
export const layerFloatBytes = 2 * sum(layer(0))

/** Numbers that all tensors take theirs from, each from another place on: drawing every weight anew would take minutes. */
const poolNumbers = 8 * 1024 * 1024 + 1

/** @returns bytes of the tensors: at least `bytes` */
export async function makeModel(folder: string, bytes: number): Promise<{ bytes: number; layers: number }> {
  const layers = Math.ceil(bytes / sum(layer(0)))
  const specs = [
    spec('model.embed_tokens.weight', vocabulary, hidden),
    ...Array.from({ length: layers }, (_, index) => layer(index)).flat(),
    spec('model.norm.weight', hidden),
  ]
  const random = seededRandom(1)
  const pool = new Uint16Array(poolNumbers)
  const [value, bits] = [new Float32Array(1), new Uint32Array(1)]
  for (let i = 0; i < poolNumbers; i++) {
    // A uniform distribution of the variance that keeps activations near 1.
    value[0] = (2 * random() - 1) * Math.sqrt(3 / hidden)
    bits.set(new Uint32Array(value.buffer))
    pool[i] = bits[0]! >>> 16
  }
  const ones = new Uint16Array(hidden).fill(0x3f80)
  await mkdir(folder, { recursive: true })
  const file = await open(join(folder, 'model.safetensors'), 'w')
  try {
    await file.write(writeSafetensorsHeader(specs))
    for (const [index, { name, shape, bytes: own }] of specs.entries()) {
      if (shape.length === 1 && name.includes('norm')) {
        await file.write(ones)
        continue
      }
      for (let [left, from] = [own / 2, (index * 7919 * 131) % poolNumbers]; left > 0; from = 0) {
        const part = pool.subarray(from, Math.min(poolNumbers, from + left))
        await file.write(part)
        left -= part.length
      }
    }
  } finally {
    await file.close()
  }
  for (const name of ['tokenizer.json', 'tokenizer_config.json'])
    await copyFile(projectFile('demo', 'model', name), join(folder, name))
  const config = {
    ...JSON.parse(await readFile(projectFile('demo', 'model', 'config.json'), 'utf8')),
    hidden_size: hidden,
    intermediate_size: intermediate,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: keyValueHeads,
    head_dim: headSize,
    vocab_size: vocabulary,
    torch_dtype: 'bfloat16',
  }
  await writeFile(join(folder, 'config.json'), JSON.stringify(config))
  return { bytes: sum(specs), layers }
}
