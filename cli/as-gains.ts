// How measured costs are printed where they are below nothing.

/**
 * Costs below nothing are gains: `costs -0.008 nats` -> `gains 0.008 nats`, and of a spread of costs the gain in it is called one.
 * Reasons are written where they are measured; this is how they are printed.
 */
export function asGains(text: string): string {
  const n = String.raw`(\d+(?:\.\d+)?)(?!\.?\d)`
  const changes: [string, string][] = [
    // What rounds to nothing has no sign.
    [String.raw`(?<=[ (])-(0(?:\.0+)?)(?!\.?\d)`, '$1'],
    [`\\bcost(s?) -${n} to -${n}`, 'gain$1 $3 to $2'],
    [`\\bcost(s?) -${n} to ${n}`, 'cost$1 -$2 (a gain) to $3'],
    [`\\bcost(s?) -${n}(?! \\(a gain)`, 'gain$1 $2'],
    [`\\(-${n} to -${n} nats`, '(a gain of $2 to $1 nats'],
    [`\\(-${n} to ${n} nats`, '(a gain of $1 to a cost of $2 nats'],
    [`\\(-${n} nats`, '(a gain of $1 nats'],
    // Heads with what silencing each costs.
    [`of layer (\\d+) \\(-${n}\\)`, 'of layer $1 (a gain of $2)'],
  ]
  return changes.reduce((changed, [from, to]) => changed.replaceAll(new RegExp(from, 'g'), to), text)
}
