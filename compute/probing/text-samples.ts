// Plain text as samples: passages of a few hundred tokens at the borders of paragraphs, the beginning of each its prompt.
/** Characters of a passage, about 250 tokens of English; a paragraph longer than twice that is cut. */
const passageCharacters = 1000
/** What is shorter has too little to be continued. */
const shortest = 40
/** Share of a passage that is its prompt, up to the next blank; where none comes before the second share, as in Chinese, to the whole character. */
const promptShare = 0.25
const longestPromptShare = 0.5

export interface TextSample {
  capability: string
  subtask: string
  prompt: string
  completion: string
}

/** Text as samples in its order; `task` and `subtask` are slugs. Texts without a passage long enough give nothing. */
export function textSamples(text: string, task: string, subtask: string): TextSample[] {
  return passagesOf(text).flatMap(passage => {
    const least = Math.floor(passage.length * promptShare)
    const blank = passage.slice(least, Math.ceil(passage.length * longestPromptShare)).search(/\s/)
    const at = blank >= 0 ? least + blank : wholeCharacters(passage, least)
    const [prompt, completion] = [passage.slice(0, at).trimEnd(), passage.slice(at)]
    return prompt && completion.trim() ? [{ capability: task, subtask, prompt, completion }] : []
  })
}

function passagesOf(text: string): string[] {
  const paragraphs = text
    .replaceAll('\r\n', '\n')
    .split(/\n\s*\n/)
    .map(paragraph => paragraph.trim())
    .flatMap(cutParagraph)
  const passages: string[] = []
  let passage = ''
  for (const paragraph of paragraphs) {
    if (passage && passage.length + paragraph.length > passageCharacters) {
      passages.push(passage)
      passage = ''
    }
    passage = passage ? `${passage}\n\n${paragraph}` : paragraph
  }
  return [...passages, passage].filter(own => own.length >= shortest)
}

/** Pieces that end at a blank; a run of characters without any is cut where it is too long, between whole characters. */
function cutParagraph(paragraph: string): string[] {
  const pieces: string[] = []
  let rest = paragraph
  while (rest.length > 2 * passageCharacters) {
    const blank = rest.lastIndexOf(' ', passageCharacters)
    const at = blank > 0 ? blank : wholeCharacters(rest.slice(0, 2 * passageCharacters), passageCharacters)
    pieces.push(rest.slice(0, at))
    rest = rest.slice(at).trimStart()
  }
  return rest ? [...pieces, rest] : pieces
}

const characters = new Intl.Segmenter(undefined, { granularity: 'grapheme' })

/** The last border at or before a position that cuts no character as people see it; behind the first one where that is longer. */
function wholeCharacters(text: string, position: number): number {
  const { index, segment } = characters.segment(text).containing(position)!
  return index || segment.length
}
