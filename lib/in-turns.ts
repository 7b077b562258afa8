/** One of each group, then the second of each, and so on; within a turn in the order given. */
export function inTurns<T>(items: readonly T[], groupOf: (item: T) => string): T[] {
  const turns = new Map<string, number>()
  return items
    .map(item => {
      const turn = turns.get(groupOf(item)) ?? 0
      turns.set(groupOf(item), turn + 1)
      return { item, turn }
    })
    .sort((a, b) => a.turn - b.turn)
    .map(({ item }) => item)
}
