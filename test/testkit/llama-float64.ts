// A plain float64 forward pass of a llama model, one token and one head at a time: what the engine's numbers are checked against.
import type { PicoLlama } from './pico-llama.js'

export interface ReferenceRun {
  /** [tokens][vocabulary] */
  logits: number[][]
  /** [layers + 1][tokens][hidden]: the residual stream, 0 the embedding. */
  hidden: number[][][]
  /** [layers][tokens][query heads] -sum p ln p of what the head attends to, nats. */
  entropies: number[][][]
}

type Vector = number[]

const dot = (a: ArrayLike<number>, b: ArrayLike<number>, offset = 0) => {
  let sum = 0
  for (let i = 0; i < b.length; i++) sum += a[offset + i]! * b[i]!
  return sum
}
const add = (a: Vector, b: Vector) => a.map((x, i) => x + b[i]!)

/**
 * Runs ids through the model (half-split RoPE, as in Hugging Face files).
 * @param gates [layers] factor of what each layer adds to its input
 */
export function runLlamaFloat64(
  { config, tensors }: PicoLlama,
  ids: readonly number[],
  gates?: readonly number[],
): ReferenceRun {
  const size = (key: string) => Number(config[key])
  const heads = size('num_attention_heads')
  const groups = heads / size('num_key_value_heads')
  const headSize = size('hidden_size') / heads
  const weight = (name: string) => tensors.get(name)!
  const linear = (name: string, x: Vector): Vector => {
    const { data, shape } = weight(name)
    const bias = tensors.get(name.replace('.weight', '.bias'))?.data
    return Array.from({ length: shape[0]! }, (_, row) => dot(data, x, row * x.length) + (bias?.[row] ?? 0))
  }
  const norm = (name: string, x: Vector): Vector => {
    const scale = 1 / Math.sqrt(dot(x, x) / x.length + size('rms_norm_eps'))
    return x.map((value, i) => value * scale * weight(name).data[i]!)
  }
  const rotate = (x: Vector, position: number): Vector => {
    const half = headSize / 2
    return x.map((value, i) => {
      const j = i % headSize
      const angle = position * size('rope_theta') ** ((-2 * (j % half)) / headSize)
      const partner = j < half ? -x[i + half]! : x[i - half]!
      return value * Math.cos(angle) + partner * Math.sin(angle)
    })
  }
  const embedding = weight('model.embed_tokens.weight').data
  const width = size('hidden_size')
  let stream = ids.map(id => Array.from(embedding.subarray(id * width, (id + 1) * width)))
  const hidden = [stream]
  const entropies: number[][][] = []
  for (let layer = 0; layer < size('num_hidden_layers'); layer++) {
    const at = (name: string) => `model.layers.${layer}.${name}.weight`
    const gate = gates?.[layer] ?? 1
    const normed = stream.map(x => norm(at('input_layernorm'), x))
    const queries = normed.map((x, position) => rotate(linear(at('self_attn.q_proj'), x), position))
    const keys = normed.map((x, position) => rotate(linear(at('self_attn.k_proj'), x), position))
    const values = normed.map(x => linear(at('self_attn.v_proj'), x))
    const layerEntropies: number[][] = queries.map(() => [])
    entropies.push(layerEntropies)
    const attended = queries.map((query, position) => {
      const mixed: Vector = []
      // A window of w: position i sees i - w + 1 … i (transformers' sliding_window_overlay).
      const first = Math.max(0, position + 1 - Number(config.sliding_window ?? Infinity))
      for (let head = 0; head < heads; head++) {
        const own = query.slice(head * headSize, (head + 1) * headSize)
        const from = Math.floor(head / groups) * headSize
        const scores = keys.slice(first, position + 1).map(key => dot(key, own, from) / Math.sqrt(headSize))
        const top = Math.max(...scores)
        const weights = scores.map(score => Math.exp(score - top))
        const total = weights.reduce((a, b) => a + b, 0)
        layerEntropies[position]!.push(-weights.reduce((sum, w) => sum + (w / total) * Math.log(w / total), 0))
        for (let i = 0; i < headSize; i++) {
          mixed.push(weights.reduce((sum, w, past) => sum + (w / total) * values[first + past]![from + i]!, 0))
        }
      }
      return linear(at('self_attn.o_proj'), mixed).map(x => x * gate)
    })
    stream = stream.map((x, i) => add(x, attended[i]!))
    stream = stream.map(x => {
      const y = norm(at('post_attention_layernorm'), x)
      const up = linear(at('mlp.up_proj'), y)
      const product = linear(at('mlp.gate_proj'), y).map((value, i) => (value / (1 + Math.exp(-value))) * up[i]!)
      return add(
        x,
        linear(at('mlp.down_proj'), product).map(value => value * gate),
      )
    })
    hidden.push(stream)
  }
  const head = config.tie_word_embeddings ? 'model.embed_tokens.weight' : 'lm_head.weight'
  return { hidden, entropies, logits: stream.map(x => linear(head, norm('model.norm.weight', x))) }
}

/** -ln softmax(logits)[target] */
export function negativeLogLikelihood(logits: readonly number[], target: number): number {
  const top = Math.max(...logits)
  return top + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - top), 0)) - logits[target]!
}
