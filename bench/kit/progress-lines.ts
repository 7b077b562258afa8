// Progress of a long bench as lines on standard error, one every half minute.
import type { ProgressReport } from '../../compute/handlers/handler.js'

const millisecondsBetween = 30_000

export const say = (line: string) => process.stderr.write(`${line}\n`)

export function progressLines(): (report: ProgressReport) => void {
  let nextLine = 0
  return ({ stage, completed, total, unit }) => {
    if (performance.now() < nextLine) return
    nextLine = performance.now() + millisecondsBetween
    say(`${stage}: ${completed} of ${total ?? '?'} ${unit}`)
  }
}
