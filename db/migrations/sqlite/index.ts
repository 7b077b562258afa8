// The list of SQLite migrations, oldest first.
import { Initial1763900000000 } from './1763900000000-initial.js'
import { HeadImportance1764000000000 } from './1764000000000-head-importance.js'
import { Intervals1764000001000 } from './1764000001000-intervals.js'
import { Insight1764200000000 } from './1764200000000-insight.js'
import { PolicyDecisions1764300000000 } from './1764300000000-policy-decisions.js'
import { BuildStages1764600000000 } from './1764600000000-build-stages.js'
import { JobCost1764600001000 } from './1764600001000-job-cost.js'

export const migrations = [
  Initial1763900000000,
  HeadImportance1764000000000,
  Intervals1764000001000,
  Insight1764200000000,
  PolicyDecisions1764300000000,
  BuildStages1764600000000,
  JobCost1764600001000,
]
