// Which of the cuts that a search found are worth a choice between size and loss.

/**
 * What is worth a choice, largest first: of cuts of layers alone those that no other such cut of at most their size equals or beats, since their
 * students store nothing and can be exported in every format; of cuts of heads too those that no cut of either kind does.
 */
export function paretoCuts<T extends { parameters: number; loss: number; heads: boolean }>(cuts: readonly T[]): T[] {
  const bySize = [...cuts].sort(
    (a, b) => a.parameters - b.parameters || a.loss - b.loss || Number(a.heads) - Number(b.heads),
  )
  const best: T[] = []
  for (const cut of bySize)
    if (best.every(other => cut.loss < other.loss || (other.heads && !cut.heads))) best.push(cut)
  return best.reverse()
}
