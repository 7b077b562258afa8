// The list of SQLite migrations, oldest first.
import { Initial1763900000000 } from './1763900000000-initial.js'

export const migrations = [Initial1763900000000]
