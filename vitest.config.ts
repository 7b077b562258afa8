// Test runner: sources are compiled by oxc with decorator metadata; child processes run the compiled `dist/`.
import { defineConfig } from 'vitest/config'

export default defineConfig({
  // One copy of graphql: inlined sources would resolve index.mjs while dependencies load index.js ("another module or realm").
  resolve: { alias: [{ find: /^graphql$/, replacement: 'graphql/index.js' }] },
  oxc: { decorator: { legacy: true, emitDecoratorMetadata: true } },
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 60_000,
    env: { APOLLO_TELEMETRY_DISABLED: 'true', LOG_LEVEL: 'silent' },
  },
})
