// Questions before something is gone.
import { PassThrough } from 'node:stream'
import { expect, test } from 'vitest'
import { confirm } from '../../../cli/confirm.js'
import { deletionText } from '../../../cli/model-commands.js'

test.each([
  ['y\n', true],
  ['Yes\n', true],
  ['\n', false],
  ['n\n', false],
  ['yesterday\n', false],
  ['', false],
])('%j is %s', async (answer, expected) => {
  const [input, output] = [new PassThrough(), new PassThrough()]
  input.end(answer)
  expect(await confirm('Delete it?', input, output)).toBe(expected)
  expect(String(output.read())).toContain('Delete it? (y/N)')
})

test('a deletion says what goes and what hangs on it', () => {
  const model = { name: 'smollm2', parameterCount: 135e6, uniqueBytes: 98e6 }
  const none = { recipe: null, students: { nodes: [], totalCount: 0 }, recipes: { nodes: [], totalCount: 0 } }
  expect(deletionText(model, none)).toBe('smollm2 goes: 135 M parameters, 98.0 MB that no other model holds.')
  const some = {
    recipe: { name: 'cut' },
    students: { nodes: [{ name: 'a' }, { name: 'b' }], totalCount: 3 },
    recipes: {
      nodes: [
        { name: 'x', status: 'PROPOSED' },
        { name: 'y', status: 'BUILT' },
      ],
      totalCount: 2,
    },
  }
  expect(deletionText(model, some).split('\n').slice(1)).toEqual([
    '  Its 3 students stay: a, b, ….',
    '  A recipe that is open cannot be built any more: x.',
    '  Its recipe cut stays and can be built again.',
  ])
  const many = { ...some, recipes: { ...some.recipes, totalCount: 101 } }
  expect(deletionText(model, many)).toContain('1 or more recipes that are open cannot be built any more: x.')
})
