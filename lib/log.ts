// Structured log on standard error, one JSON object per line (pretty on a terminal); secrets are never logged.
import { type Logger, pino, stdSerializers } from 'pino'
import { readEnv } from './env.js'

export type { Logger }

/** A logger whose lines carry `name` (the part of the platform that speaks). */
export function makeLogger(name: string, level = readEnv().LOG_LEVEL): Logger {
  const base = {
    name,
    level,
    redact: ['*.token', '*.authorization', '*.password', 'headers.authorization'],
    serializers: { err: describeError },
  }
  if (!process.stderr.isTTY) return pino(base, pino.destination(2))
  return pino({ ...base, transport: { target: 'pino-pretty', options: { destination: 2, ignore: 'pid,hostname' } } })
}

/** A failed query carries its parameters, twice: prompts, messages, paths of people, of any length. */
export function describeError(error: Error) {
  const { parameters: _parameters, driverError: _driverError, ...shown } = stdSerializers.err(error)
  return shown
}
