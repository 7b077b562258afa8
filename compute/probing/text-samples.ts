// Plain text as samples: passages of a few hundred tokens at the borders of paragraphs, the beginning of each its prompt.
/** Characters of a passage, about 250 tokens of English; a paragraph longer than twice that is cut. */
const passageCharacters = 1000
/** What is shorter has too little to be continued. */
const shortest = 40
/** Share of a passage that is its prompt, up to the next blank. */
const promptShare = 0.25

export interface TextSample {
  capability: string
  subtask: string
  prompt: string
  completion: string
}

/** `task` and `subtask` are slugs. Texts without a passage long enough give nothing. */
export function textSamples(text: string, task: string, subtask: string): TextSample[] {
  return passagesOf(text).flatMap(passage => {
    const from = passage.slice(Math.floor(passage.length * promptShare)).search(/\s/)
    if (from < 0) return []
    const at = Math.floor(passage.length * promptShare) + from
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
    let at = blank > 0 ? blank : passageCharacters
    const before = rest.charCodeAt(at - 1)
    if (before >= 0xd800 && before < 0xdc00) at--
    pieces.push(rest.slice(0, at))
    rest = rest.slice(at).trimStart()
  }
  return rest ? [...pieces, rest] : pieces
}
