// bench kill-builds: kill -9 of server or workers at random points of builds whose stages run a model; every build must end as an undisturbed one.
import { killBuilds } from './kill/kill-builds.js'
import { runKills } from './kill/run-kills.js'

/** `--kills N` (100), `--seed N` (1). Throws where anything was lost or differs, naming it. */
export const run = (args: string[]) => runKills(args, 100, killBuilds)
