// The output layer of training: losses of chunks of tokens and what they change by, in closed form, with as few passes over [tokens, vocabulary]
// as there can be. No derivative is taken of it: it says what the hidden states' and the head's gradients are.
import type { GraphBuilder } from '../graph/builder.js'
import type { Value } from '../graph/ir.js'
import { apply } from '../ops/apply.js'

export interface HeadLosses {
  /** Next-token cross-entropy, each row with a weight of its own. */
  crossEntropy: boolean
  /** Forward divergence from a teacher's most likely tokens and the mass of all others; absent: none. */
  divergence?: { tokens: number; temperature: number } | undefined
}

/** Least probability whose logarithm is taken: its loss of 87 nats is finite; gradients come from the probabilities themselves. */
const leastProbability = 1e-38
/**
 * Least mass of the tokens that the teacher did not name: below it 1 - sum is rounding (Float32 near 1 is 6e-8 apart).
 */
const leastTail = 1e-6

const mul = (g: GraphBuilder, a: Value, b: Value) => apply(g, 'Mul', [a, b])
const sub = (g: GraphBuilder, a: Value, b: Value) => apply(g, 'Sub', [a, b])
const add = (g: GraphBuilder, a: Value, b: Value) => apply(g, 'Add', [a, b])
const sum = (g: GraphBuilder, x: Value) => apply(g, 'ReduceSum', [x], { keepdims: 0 })
const sumLast = (g: GraphBuilder, x: Value) => apply(g, 'ReduceSum', [x, g.int64s([-1])], { keepdims: 1 })
const logOf = (g: GraphBuilder, p: Value) => apply(g, 'Log', [apply(g, 'Max', [p, g.float32(leastProbability)])])
const total = (g: GraphBuilder, values: readonly Value[]) => values.reduce((a, b) => add(g, a, b))

export interface LossHead {
  /** Weighted sums over all rows, []. */
  crossEntropy: Value | undefined
  divergence: Value | undefined
  /** The chosen rows of the hidden states and the loss's gradient for each of them. */
  seeds: [Value, Value][]
  /** Gradient of the head's weight [vocabulary, hidden]; made only where asked for. */
  weight(): Value
}

/**
 * The inputs of chunk c, n its number of rows: `rows.c` [n] (flat positions), with cross-entropy `labels.c` [n, 1] and `ce_weights.c` [n, 1],
 * with divergence `teacher_ids.c` and `teacher_probabilities.c` [n, tokens] (at the temperature, different ids within a row),
 * `teacher_tail.c` [n, 1] (what they leave over), `teacher_entropy.c` [n, 1] (sum of q ln q, the tail's included) and `kl_weights.c` [n, 1].
 * A row of weight 0 changes nothing.
 *
 * With P the softmax, q the teacher's probabilities of K named tokens, t what it leaves over and T what P leaves over, the divergence is
 * sum q ln(q / p) + t ln(t / T), and its derivative for logit j is p - q where j is named, p (1 - t / T) where not.
 */
export function lossHead(
  g: GraphBuilder,
  normed: Value,
  head: Value,
  chunks: number,
  { crossEntropy, divergence }: HeadLosses,
): LossHead {
  const ce: Value[] = []
  const kl: Value[] = []
  const seeds: [Value, Value][] = []
  /** Factors of the head's gradient: transposed first times second. */
  const outer: { d: Value; x: Value; alpha: number }[] = []
  for (let c = 0; c < chunks; c++) {
    const n = `rows_${c}`
    const rows = g.input(`rows.${c}`, 'int64', [n])
    const x = apply(g, 'Gather', [normed, rows], { axis: 0 }, { name: `wanted.${c}` }) // [n, hidden]
    const softmax = (temperature: number) => {
      const logits = apply(g, 'Gemm', [x, head], { transB: 1, alpha: 1 / temperature }, { name: `logits.${c}` })
      return apply(g, 'Softmax', [logits], { axis: -1 }, { name: `probabilities.${c}` }) // [n, vocabulary]
    }
    const labelled = crossEntropy && {
      labels: g.input(`labels.${c}`, 'int64', [n, 1]),
      weights: g.input(`ce_weights.${c}`, 'float32', [n, 1]),
    }
    const countCrossEntropy = (p: Value) => {
      const chosen = apply(g, 'GatherElements', [p, (labelled as { labels: Value }).labels], { axis: 1 })
      ce.push(sum(g, mul(g, logOf(g, chosen), (labelled as { weights: Value }).weights)))
    }
    const gradients: Value[] = []
    if (labelled && divergence?.temperature !== 1) {
      const p = softmax(1)
      countCrossEntropy(p)
      const ones = apply(g, 'Expand', [g.float32(-1), apply(g, 'Shape', [labelled.labels])], {}, { shape: [n, 1] })
      const d = apply(g, 'ScatterElements', [p, labelled.labels, ones], { axis: 1, reduction: 'add' })
      // The weights scale the small sides of both products, not [n, vocabulary].
      gradients.push(mul(g, apply(g, 'Gemm', [d, head]), labelled.weights))
      outer.push({ d, x: mul(g, x, labelled.weights), alpha: 1 })
    }
    if (divergence) {
      const { tokens, temperature } = divergence
      const ids = g.input(`teacher_ids.${c}`, 'int32', [n, tokens])
      const q = g.input(`teacher_probabilities.${c}`, 'float32', [n, tokens])
      const tail = g.input(`teacher_tail.${c}`, 'float32', [n, 1])
      const entropy = g.input(`teacher_entropy.${c}`, 'float32', [n, 1])
      const weights = g.input(`kl_weights.${c}`, 'float32', [n, 1])
      const p = softmax(temperature)
      const named = apply(g, 'GatherElements', [p, ids], { axis: 1 }) // [n, tokens]
      const own = apply(g, 'Max', [sub(g, g.float32(1), sumLast(g, named)), g.float32(leastTail)])
      const cross = add(g, sumLast(g, mul(g, q, logOf(g, named))), mul(g, tail, apply(g, 'Log', [own])))
      kl.push(sum(g, mul(g, sub(g, entropy, cross), weights)))
      const both = labelled && temperature === 1 ? labelled : undefined
      const rest = mul(g, sub(g, g.float32(1), apply(g, 'Div', [tail, own])), weights)
      const scale = both ? add(g, rest, both.weights) : rest
      const ofNamed = mul(g, sub(g, named, q), weights)
      const updates = both ? add(g, ofNamed, mul(g, named, both.weights)) : ofNamed
      if (both) countCrossEntropy(p)
      const scaled = mul(g, p, scale)
      let d = apply(g, 'ScatterElements', [scaled, ids, updates], { axis: 1, reduction: 'none' })
      if (both) {
        const less = apply(g, 'Neg', [both.weights])
        d = apply(g, 'ScatterElements', [d, both.labels, less], { axis: 1, reduction: 'add' })
      }
      gradients.push(apply(g, 'Gemm', [d, head], { alpha: 1 / temperature }))
      outer.push({ d, x, alpha: 1 / temperature })
    }
    seeds.push([x, total(g, gradients)])
  }
  return {
    crossEntropy: ce.length > 0 ? apply(g, 'Neg', [total(g, ce)], {}, { name: 'cross_entropy' }) : undefined,
    divergence: kl.length > 1 ? total(g, kl) : kl[0],
    seeds,
    weight: () =>
      outer.reduce<Value | undefined>((before, { d, x, alpha }) => {
        const attributes = { transA: 1, alpha, ...(before ? { beta: 1 } : {}) }
        return apply(g, 'Gemm', before ? [d, x, before] : [d, x], attributes)
      }, undefined)!,
  }
}
