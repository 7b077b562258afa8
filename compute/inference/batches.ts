// Packs samples into batches: similar lengths together, so that little is padded, and bounded memory whatever the vocabulary.

/** Padded tokens of a batch: bounds its activations (some 30 numbers per hidden unit). */
const maximumTokens = 8192
/** Logits of a batch, as numbers: 16 M are 64 MB. */
const maximumLogits = 16 * 1024 * 1024

/**
 * Batches of indices into `samples`. A sample that alone exceeds a bound gets a batch of its own.
 * @param tokenLimit padded tokens of a batch, where a run keeps more of each than a forward pass does
 */
export function packBatches(
  samples: readonly { ids: readonly number[]; completionStart: number }[],
  vocabularySize: number,
  tokenLimit = maximumTokens,
): number[][] {
  const order = samples.map((_, i) => i).sort((a, b) => samples[a]!.ids.length - samples[b]!.ids.length || a - b)
  const batches: number[][] = []
  let batch: number[] = []
  let rows = 0
  for (const index of order) {
    const { ids, completionStart } = samples[index]!
    const ownRows = Math.max(0, ids.length - Math.max(1, completionStart))
    // In ascending order the newest sample is the longest, to which all others are padded.
    const tokens = (batch.length + 1) * ids.length
    if (batch.length > 0 && (tokens > tokenLimit || (rows + ownRows) * vocabularySize > maximumLogits)) {
      batches.push(batch)
      batch = []
      rows = 0
    }
    batch.push(index)
    rows += ownRows
  }
  if (batch.length > 0) batches.push(batch)
  return batches
}
