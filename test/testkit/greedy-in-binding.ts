// An exported ONNX folder in the plain Node binding of ONNX Runtime, without a line of ours.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { InferenceSession, Tensor } from 'onnxruntime-node'

/** Logits after a prompt. */
export async function logitsInBinding(folder: string, graph: string, prompt: readonly number[]): Promise<Float32Array> {
  let first: Float32Array | undefined
  await greedyInBinding(folder, graph, prompt, 1, logits => {
    first = logits.slice()
  })
  return first!
}

/** Greedy tokens as a program writes them that knows config.json and the names of transformers' ONNX models. */
export async function greedyInBinding(
  folder: string,
  graph: string,
  prompt: readonly number[],
  count: number,
  look?: (logits: Float32Array) => void,
) {
  const config = JSON.parse(await readFile(join(folder, 'config.json'), 'utf8'))
  const layers = config.num_hidden_layers ?? config.n_layer
  const queryHeads = config.num_attention_heads ?? config.n_head
  const heads = config.num_key_value_heads ?? queryHeads
  const size = config.head_dim ?? (config.hidden_size ?? config.n_embd) / queryHeads
  const session = await InferenceSession.create(join(folder, graph))
  let past: Record<string, Tensor> = {}
  for (let layer = 0; layer < layers; layer++)
    for (const part of ['key', 'value'])
      past[`past_key_values.${layer}.${part}`] = new Tensor('float32', [], [1, heads, 0, size])
  const tokens: number[] = []
  let ids = [...prompt]
  for (let length = 0; tokens.length < count; ) {
    const whole = (values: number[]) => new Tensor('int64', BigInt64Array.from(values, BigInt), [1, values.length])
    const positions = whole(ids.map((_, i) => length + i))
    length += ids.length
    const mask = whole(new Array(length).fill(1))
    const outputs = await session.run({ input_ids: whole(ids), attention_mask: mask, position_ids: positions, ...past })
    const { logits } = outputs
    const [, rows, vocabulary] = logits!.dims as [number, number, number]
    const last = (logits!.data as Float32Array).subarray((rows - 1) * vocabulary)
    look?.(last)
    ids = [last.indexOf(Math.max(...last))]
    tokens.push(ids[0]!)
    past = Object.fromEntries(Object.keys(past).map(key => [key, outputs[key.replace('past_key_values', 'present')]!]))
  }
  await session.release()
  return tokens
}
