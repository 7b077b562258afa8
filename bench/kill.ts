// bench kill: 200 kill -9 of server or worker at random points of ingest and build, and what is left afterwards.
import { killRun } from './kill/kill-run.js'
import { runKills } from './kill/run-kills.js'

/** `--kills N` (200), `--seed N` (1). Throws where anything was lost, naming it. */
export const run = (args: string[]) => runKills(args, 200, killRun)
