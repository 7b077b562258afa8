// Structured log on standard error, one JSON object per line (pretty on a terminal); secrets are never logged.
import { type Logger, pino } from 'pino'
import { readEnv } from './env.js'

export type { Logger }

/** A logger whose lines carry `name` (the part of the platform that speaks). */
export function makeLogger(name: string, level = readEnv().LOG_LEVEL): Logger {
  const base = { name, level, redact: ['*.token', '*.authorization', '*.password', 'headers.authorization'] }
  if (!process.stderr.isTTY) return pino(base, pino.destination(2))
  return pino({ ...base, transport: { target: 'pino-pretty', options: { destination: 2, ignore: 'pid,hostname' } } })
}
