// A model in pieces by formula: its hidden state is one number per token, every layer multiplies and adds, so that order and skipping show.
import type { LayerwiseModel } from '../../../../compute/probing/stacks.js'

export interface NumberModel extends LayerwiseModel {
  /** Layer runs so far, one entry per row. */
  runs: number[]
}

/** The state of a token after a stack of layers. */
export const numberAfter = (token: number, stack: readonly number[]) =>
  stack.reduce((x, layer) => 2 * x + layer + 1, token)

/** A row's loss is the sum of its completion tokens' states. */
export function numberModel(): NumberModel {
  const runs: number[] = []
  const longest = (rows: readonly { ids: readonly number[] }[]) => Math.max(1, ...rows.map(r => r.ids.length))
  return {
    runs,
    hiddenSize: 1,
    embed: async rows => {
      const seq = longest(rows)
      return Float32Array.from(rows.flatMap(({ ids }) => [...ids, ...new Array<number>(seq - ids.length).fill(1e6)]))
    },
    layer: async (index, hidden, rows) => {
      if (hidden.length !== rows.length * longest(rows))
        throw new Error(`${hidden.length} numbers for ${rows.length} rows`)
      for (const _ of rows) runs.push(index)
      return hidden.map(x => 2 * x + index + 1)
    },
    losses: async (hidden, rows) => {
      const seq = longest(rows)
      return rows.map(({ ids, completionStart }, row) => {
        const own = hidden.subarray(row * seq + completionStart, row * seq + ids.length)
        return { nll: own.reduce((a, b) => a + b, 0), exact: false }
      })
    },
  }
}
