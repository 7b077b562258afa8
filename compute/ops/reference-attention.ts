// Attention and rotary embedding in plain float64 loops: the longest of the ops' definitions.
import type { Reference, Tensor } from './reference.js'

/**
 * x [batch, seq, heads * head size], position ids [batch, seq] or [1] (that of the first token), tables [positions, head size / 2]. Pairs are
 * (i, i + half) of a head, or (2i, 2i + 1) where interleaved.
 */
export const rotaryEmbedding: Reference<'RotaryEmbedding'> = ([x, positions, cos, sin], { interleaved = 0 }) => {
  const [batch, seq] = x!.shape as [number, number]
  const ids = Array.from({ length: batch * seq }, (_, i) =>
    positions!.data.length === 1 ? positions!.data[0]! + (i % seq) : positions!.data[i]!,
  )
  return [rotate(x!, ids, cos!, sin!, interleaved === 1)]
}

function rotate(x: Tensor, positions: readonly number[], cos: Tensor, sin: Tensor, interleaved: boolean): Tensor {
  const half = cos.shape[1]!
  const width = x.shape[2]!
  const data = new Float64Array(x.data.length)
  for (let pair = 0; pair < data.length / 2; pair++) {
    const head = Math.floor(pair / half)
    const i = pair % half
    const token = Math.floor((head * 2 * half) / width)
    const first = head * 2 * half + (interleaved ? 2 * i : i)
    const second = first + (interleaved ? 1 : half)
    const c = cos.data[positions[token]! * half + i]!
    const s = sin.data[positions[token]! * half + i]!
    data[first] = x.data[first]! * c - x.data[second]! * s
    data[second] = x.data[second]! * c + x.data[first]! * s
  }
  return { shape: x.shape, data }
}

/** Rows of one batch entry's cache [heads, positions, head size] at [head][position]. */
const cacheOffset = (shape: readonly number[], batch: number, head: number, position: number) =>
  ((batch * shape[1]! + head) * shape[2]! + position) * shape[3]!

/** The table's GroupQueryAttention. New tokens stand at the end of the total length; the past's first rows are those before them. */
export const groupQueryAttention: Reference<'GroupQueryAttention'> = (
  [query, key, value, pastKey, pastValue, , total, cos, sin],
  { num_heads: heads = 1, kv_num_heads: groups = 1, scale, do_rotary, rotary_interleaved, local_window_size = -1 },
) => {
  const [batch, seq, width] = query!.shape as [number, number, number]
  const size = width / heads
  const length = total!.data[0]!
  const past = length - seq
  const ids = Array.from({ length: batch * seq }, (_, i) => past + (i % seq))
  const turned = (x: Tensor) => (do_rotary === 1 ? rotate(x, ids, cos!, sin!, rotary_interleaved === 1) : x)
  const [q, k] = [turned(query!), turned(key!)]

  const present = (fresh: Tensor, old: Tensor | null | undefined): Tensor => {
    const shape = [batch, groups, length, size]
    const data = new Float64Array(batch * groups * length * size)
    for (let b = 0; b < batch; b++) {
      for (let h = 0; h < groups; h++) {
        for (let p = 0; p < length; p++) {
          const from = p < past ? cacheOffset(old!.shape, b, h, p) : ((b * seq + p - past) * groups + h) * size
          const source = (p < past ? old! : fresh).data.subarray(from, from + size)
          data.set(source, cacheOffset(shape, b, h, p))
        }
      }
    }
    return { shape, data }
  }
  const [keys, values] = [present(k, pastKey), present(value!, pastValue)]

  const data = new Float64Array(q.data.length)
  for (let b = 0; b < batch; b++) {
    for (let i = 0; i < seq; i++) {
      for (let h = 0; h < heads; h++) {
        const own = ((b * seq + i) * heads + h) * size
        const group = Math.floor(h / (heads / groups))
        const last = past + i
        const first = local_window_size > 0 ? Math.max(0, last + 1 - local_window_size) : 0
        const row = (x: Tensor, p: number) => {
          const from = cacheOffset(x.shape, b, group, p)
          return x.data.subarray(from, from + size)
        }
        const weights: number[] = []
        for (let p = first; p <= last; p++) {
          const score = row(keys, p).reduce((sum, x, j) => sum + x * q.data[own + j]!, 0)
          weights.push(score * (scale ?? 1 / Math.sqrt(size)))
        }
        const top = Math.max(...weights)
        const exponentials = weights.map(w => Math.exp(w - top))
        const norm = exponentials.reduce((sum, e) => sum + e, 0)
        exponentials.forEach((e, p) => {
          row(values, first + p).forEach((x, j) => {
            data[own + j]! += (e / norm) * x
          })
        })
      }
    }
  }
  return [{ shape: q.shape, data }, keys, values]
}
