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

it('cuts text without blanks between whole characters', () => {
  const chinese = '天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏。'.repeat(4)
  expect(textSamples(chinese, 'text', 'plain')).toEqual([
    { capability: 'text', subtask: 'plain', prompt: chinese.slice(0, 25), completion: chinese.slice(25) },
  ])
  // A blank far behind is none to cut at.
  expect(textSamples(`${chinese.repeat(2)}\n\n${chinese}`, 'text', 'plain')[0]!.prompt).toHaveLength(75)
  // Families of seven code points and eleven code units each, and letters with marks of their own.
  for (const whole of ['\u{1F468}\u200D\u{1F469}\u200D\u{1F467}\u200D\u{1F466}', 'e\u0301\u0323']) {
    const samples = textSamples(whole.repeat(1000), 'text', 'plain')
    expect(samples.map(join).join('')).toBe(whole.repeat(1000))
    for (const { prompt } of samples) expect(prompt.length % whole.length).toBe(0)
  }
})

it('finds nothing in what is empty or too short', () => {
  expect(['', ' \n\n ', 'short.', '短'.repeat(39)].flatMap(text => textSamples(text, 'text', 'plain'))).toEqual([])
})
