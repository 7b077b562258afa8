// Lines that single commands print.
import { expect, test } from 'vitest'
import { capabilityTable } from '../../../cli/capability-commands.js'
import { emptyAnswerHint } from '../../../cli/generate-commands.js'
import type { CapabilitySummary } from '../../../cli/results.js'
import { jobLabel } from '../../../cli/show-result.js'
import { distillationText, loraInput } from '../../../cli/student-commands.js'

test('a distillation says what it does in one line', () => {
  const names = { student: 'cut', teacher: 'whole', texts: 'the built-in probe set' }
  const healing = { tokens: 40_960, learningRate: 0.0002, crossEntropy: 0.5 }
  expect(distillationText(names, healing, 0)).toBe(
    "cut learns from whole: 41.0 k tokens of the built-in probe set, all capabilities; learning rate up to 0.0002; 50 % of the loss is the texts' own; it writes no rows itself",
  )
  expect(distillationText({ ...names, capability: 'translation' }, healing, 0.25)).toMatch(
    /, translation; .*; 25 % of the rows it writes itself$/,
  )
})

test('--keep-adapter is told to the server whatever is trained, which refuses it without --train lora', () => {
  expect(loraInput({ train: 'all', rank: 16 })).toBeUndefined()
  expect(loraInput({ train: 'lora', rank: 8 })).toEqual({ rank: 8, alpha: 16, keepAdapter: false })
  expect(loraInput({ train: 'all', rank: 16, keepAdapter: true })).toMatchObject({ keepAdapter: true })
})

test('an empty answer of a model with a chat template points to chat', () => {
  expect(emptyAnswerHint('smollm2', '{% for … %}')).toContain('`hartonomous chat smollm2`')
  expect(emptyAnswerHint('smollm2', null)).toBeUndefined()
})

test('progress is named after the kind of job', () => {
  expect(['STUDENTS_PROPOSE', 'STUDENT_BUILD', 'CAPABILITY_ANALYZE', 'OTHER', undefined].map(jobLabel)).toEqual([
    ...['propose', 'build', 'analyze', 'job', 'job'],
  ])
})

test('the taxonomy has a column of statuses only where one is to be said', () => {
  const capability = (status: string) =>
    ({ id: 'x', slug: 'translation', name: 'Translation', level: 0, status, probeSampleCount: 3 }) as CapabilitySummary
  const head = (statuses: string[]) => capabilityTable(statuses.map(capability), { ids: false }).split('\n')[0]
  expect(head(['ESTABLISHED'])).not.toContain('status')
  expect(head(['ESTABLISHED', 'PROPOSED'])).toContain('status')
})
