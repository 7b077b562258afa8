// How much memory the forward pass's values take that a backward pass reads.
import { layerDimensions, type ResolvedDimensions } from '../architectures/architecture.js'

/**
 * An estimate for all layers, by the values that the derivatives of one read: four states of the residual stream (before and after its
 * norms, twice), queries and what attention gives, keys and values, four of the feed-forward width, and scores, masked scores and
 * probabilities of attention.
 */
export function activationBytes(d: ResolvedDimensions, rows: number, sequence: number): number {
  let perToken = 0
  for (let layer = 0; layer < d.layerCount; layer++) {
    const { attentionHeadCount, keyValueHeadCount, intermediateSize } = layerDimensions(d, layer)
    const heads = (3 * attentionHeadCount + 3 * keyValueHeadCount) * d.headSize
    perToken += 4 * d.hiddenSize + heads + 4 * intermediateSize + 3 * attentionHeadCount * sequence
  }
  return 4 * perToken * rows * sequence
}
