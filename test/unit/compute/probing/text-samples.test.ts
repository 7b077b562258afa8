import { expect, it } from 'vitest'
import { textSamples } from '../../../../compute/probing/text-samples.js'

const sentence = 'The quick brown fox jumps over the lazy dog and sleeps until the morning comes.'
const join = ({ prompt, completion }: { prompt: string; completion: string }) => `${prompt}${completion}`

it('cuts at paragraphs, and prompt and completion give the passage back', () => {
  const paragraph = new Array(6).fill(sentence).join(' ')
  const samples = textSamples([paragraph, paragraph, paragraph].join('\r\n\r\n'), 'text', 'plain')
  expect(samples.map(join)).toEqual([`${paragraph}\n\n${paragraph}`, paragraph])
  for (const { prompt, completion } of samples) {
    expect(prompt.length).toBeGreaterThan(0.2 * (prompt.length + completion.length))
    expect(completion).toMatch(/^\s/)
  }
})

it('cuts a paragraph without end at blanks, loses nothing, and splits no character', () => {
  const long = new Array(60).fill(sentence).join(' ')
  const samples = textSamples(long, 'text', 'plain')
  expect(samples.length).toBeGreaterThan(3)
  expect(samples.map(join).join(' ').replaceAll(/\s+/g, ' ')).toBe(long)
  const faces = `${'a'.repeat(999)}${'\u{1F600}'.repeat(1500)} end of it`
  for (const sample of textSamples(faces, 'text', 'plain')) expect(join(sample)).not.toMatch(/\p{Surrogate}/u)
})

it('finds nothing in what is empty, too short or one word', () => {
  expect(['', ' \n\n ', 'short.', 'x'.repeat(500)].flatMap(text => textSamples(text, 'text', 'plain'))).toEqual([])
})
