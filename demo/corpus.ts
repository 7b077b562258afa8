// Generates the demo model's corpus: seven exactly checkable skills about a small invented world, with held-out items.

/** The seven task slugs, one per top-level capability. */
export const TASKS = [
  'conversation',
  'code_generation',
  'mathematical_reasoning',
  'creative_writing',
  'question_answering',
  'summarization',
  'translation',
] as const

export type Task = (typeof TASKS)[number]

/** One document: the prompt and the completion are tokenised separately, so a completion brings its own space. */
export interface Item {
  task: Task
  subtask: string
  prompt: string
  completion: string
}

export interface Corpus {
  train: Item[]
  probe: Item[]
  validation: Item[]
}

export interface Sizes {
  /** Held-out items per subtask that measure which layers a skill needs. */
  probe: number
  /** Held-out items per subtask that judge a model or a student. */
  validation: number
  /** Largest number of training documents per subtask where more could be made. */
  train: number
}

export const DEFAULT_SEED = 7
export const DEFAULT_SIZES: Sizes = { probe: 8, validation: 24, train: 8000 }

type Random = () => number

/** mulberry32: a small seeded generator, so that the same seed writes the same corpus on every machine. */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

function below(random: Random, end: number): number {
  return Math.floor(random() * end)
}

function pick<T>(random: Random, values: readonly T[]): T {
  const value = values[below(random, values.length)]
  if (value === undefined) throw new Error('cannot pick from an empty list')
  return value
}

export function shuffled<T>(random: Random, values: readonly T[]): T[] {
  const result = [...values]
  for (let i = result.length - 1; i > 0; i--) {
    const j = below(random, i + 1)
    const swap = result[i] as T
    result[i] = result[j] as T
    result[j] = swap
  }
  return result
}

const ANIMALS = ['fox', 'wolf', 'bear', 'bird', 'fish', 'horse', 'mouse', 'goat']
const MORE_ANIMALS = ['cat', 'dog', 'owl', 'frog', 'deer', 'duck', 'crow', 'bee']
const FOODS = ['bread', 'milk', 'cheese', 'soup', 'cake', 'rice', 'honey', 'corn']
const TOOLS = ['hammer', 'saw', 'rope', 'knife', 'lamp', 'key', 'needle', 'spade']
const CLOTHES = ['hat', 'coat', 'shoe', 'sock', 'scarf', 'glove', 'belt', 'shirt']
const WEATHER = ['rain', 'snow', 'wind', 'fog', 'storm', 'sun', 'frost', 'hail']
const COLORS = ['red', 'blue', 'green', 'white', 'black', 'gold', 'pink', 'gray']
const NATURE = ['tree', 'river', 'stone', 'moon', 'star', 'sea', 'hill', 'house']
const SIZES = ['tiny', 'small', 'big', 'huge']
const VERBS = ['sees', 'finds', 'likes', 'has', 'wants', 'loses']
const HOMES = ['forest', 'river', 'cave', 'barn', 'garden', 'hill', 'lake', 'tower']
const MOODS = ['old', 'young', 'tired', 'happy', 'hungry', 'brave', 'shy', 'clever']
const TOPICS: Record<string, readonly string[]> = {
  animals: ANIMALS,
  foods: FOODS,
  tools: TOOLS,
  clothes: CLOTHES,
  weather: WEATHER,
  colors: COLORS,
}
const NAMES = (
  'Mira Tomo Lena Oskar Nora Pavel Ruth Sami Vera Hugo Ines Jonas Kira Leo Maya Nils ' +
  'Olga Paul Rosa Sven Tara Uma Viktor Wanda Ada Bruno Clara David Emma Felix Greta Hana'
).split(' ')
const OPPOSITES = (
  'hot/cold big/small old/young fast/slow day/night up/down left/right open/shut ' +
  'wet/dry loud/quiet rich/poor early/late hard/soft light/dark full/empty high/low'
)
  .split(' ')
  .map(pair => pair.split('/') as [string, string])
const RHYMES = (
  'moon/spoon fox/box cat/hat star/jar tree/bee king/ring house/mouse boat/goat ' +
  'snow/crow hill/mill lake/snake rain/train night/light book/hook stone/bone well/bell'
)
  .split(' ')
  .map(pair => pair.split('/') as [string, string])

const SYLLABLES = 'ba do fe gi ku la mo ne pi ru sa to ve zi ka lu me no ri ta'.split(' ')

/** Everything that is true in the invented world, drawn once from the seed. */
export interface World {
  places: { name: string; capital: string; ruler: string }[]
  things: { name: string; color: string; size: string; weight: string }[]
  animals: { name: string; home: string; food: string }[]
  velan: Map<string, string>
}

export function makeWorld(seed: number = DEFAULT_SEED): World {
  const random = seededRandom(seed)
  const used = new Set<string>()
  const word = (): string => {
    for (;;) {
      const made = pick(random, SYLLABLES) + pick(random, SYLLABLES)
      if (used.has(made) || made.slice(0, 2) === made.slice(2)) continue
      used.add(made)
      return made
    }
  }
  const capitalised = (text: string): string => text.slice(0, 1).toUpperCase() + text.slice(1)
  const rulers = shuffled(random, NAMES)
  return {
    places: rulers.map(ruler => ({ name: `${capitalised(word())}nia`, capital: capitalised(word()), ruler })),
    things: [...ANIMALS, ...FOODS, ...TOOLS, ...CLOTHES].map(name => ({
      name,
      color: pick(random, COLORS.slice(0, 6)),
      size: pick(random, SIZES),
      weight: String(1 + below(random, 9)),
    })),
    animals: [...ANIMALS, ...MORE_ANIMALS].map(name => ({
      name,
      home: pick(random, HOMES),
      food: pick(random, FOODS),
    })),
    velan: new Map(
      [...ANIMALS, ...FOODS, ...NATURE, ...COLORS.slice(0, 4), ...SIZES, ...VERBS].map(english => [english, word()]),
    ),
  }
}

/**
 * One skill's documents: `always` is taught in full (a fact cannot be guessed), `choices` is where held-out items are
 * taken from. Items with the same `key` are held out together, so that 12 + 30 never gives 30 + 12 away.
 */
interface Pool {
  always: Item[]
  choices: { key: string; item: Item }[]
}

function pool(
  task: Task,
  subtask: string,
  choices: [string, string, string?][],
  always: [string, string][] = [],
): Pool {
  return {
    always: always.map(([prompt, completion]) => ({ task, subtask, prompt, completion })),
    choices: choices.map(([prompt, completion, key]) => ({
      key: key ?? prompt,
      item: { task, subtask, prompt, completion },
    })),
  }
}

/** Facts told in several phrasings: one phrasing per fact may be held out, the others teach the fact. */
function phrasings(
  random: Random,
  task: Task,
  subtask: string,
  facts: readonly [string, string][],
  forms: readonly ((subject: string) => string)[],
): Pool {
  const always: [string, string][] = []
  const choices: [string, string][] = []
  for (const [subject, completion] of facts) {
    const held = below(random, forms.length)
    for (const [i, form] of forms.entries()) (i === held ? choices : always).push([form(subject), completion])
  }
  return pool(task, subtask, choices, always)
}

function conversation(random: Random): Pool[] {
  const greetings: [string, string][] = []
  for (const name of NAMES) {
    for (const hello of ['Hello', 'Good morning', 'Good evening', 'Welcome']) {
      greetings.push([`${hello}, I am ${name}.`, ` ${hello}, ${name}!`])
      greetings.push([`${hello}, my name is ${name}.`, ` ${hello}, ${name}!`])
    }
  }
  const facts = OPPOSITES.flatMap(([a, b]): [string, string][] => [
    [a, ` ${b}.`],
    [b, ` ${a}.`],
  ])
  return [
    pool('conversation', 'greeting', greetings),
    phrasings(random, 'conversation', 'opposite', facts, [
      word => `What is the opposite of ${word}?`,
      word => `Tell me the opposite of ${word}.`,
      word => `It is not ${word}, it is`,
      word => `You say ${word}, I say`,
    ]),
  ]
}

function codeGeneration(world: World): Pool[] {
  const fields = ['color', 'size', 'weight'] as const
  const write: [string, string][] = []
  const run: [string, string][] = []
  for (const thing of world.things) {
    for (const a of fields) {
      write.push([`Write a query for the ${a} of ${thing.name}:`, ` select ${a} from ${thing.name};`])
      run.push([`select ${a} from ${thing.name};`, ` ${thing[a]}`])
      for (const b of fields) {
        if (a === b) continue
        write.push([`Write a query for the ${a} and ${b} of ${thing.name}:`, ` select ${a}, ${b} from ${thing.name};`])
        run.push([`select ${a}, ${b} from ${thing.name};`, ` ${thing[a]}, ${thing[b]}`])
      }
    }
  }
  return [pool('code_generation', 'write_query', write), pool('code_generation', 'run_query', run)]
}

function mathematicalReasoning(): Pool[] {
  const sums: [string, string, string][] = []
  const larger: [string, string, string][] = []
  for (let a = 0; a < 100; a++) {
    for (let b = 0; b < 100; b++) {
      const key = `${Math.min(a, b)} ${Math.max(a, b)}`
      if (a + b < 100) sums.push([`${a} + ${b} =`, ` ${a + b}`, key])
      if (a !== b) larger.push([`Which is larger, ${a} or ${b}?`, ` ${Math.max(a, b)}`, key])
    }
  }
  return [pool('mathematical_reasoning', 'addition', sums), pool('mathematical_reasoning', 'comparison', larger)]
}

function creativeWriting(random: Random, world: World): Pool[] {
  const stories: [string, string][] = []
  for (const { name, home, food } of world.animals) {
    for (const mood of MOODS) {
      for (const opening of ['One day', 'Long ago', 'At night']) {
        stories.push([`${opening} the ${mood} ${name} went home to the`, ` ${home}.`])
        stories.push([`${opening} the ${mood} ${name} ate some`, ` ${food}.`])
      }
    }
  }
  const facts = RHYMES.flatMap(([a, b]): [string, string][] => [
    [a, ` ${b}.`],
    [b, ` ${a}.`],
  ])
    // A word in two pairs would have two right endings, so only its first pair counts.
    .filter(([word], i, all) => all.findIndex(([other]) => other === word) === i)
  return [
    pool('creative_writing', 'story_ending', stories),
    phrasings(random, 'creative_writing', 'rhyme', facts, [
      word => `I saw the ${word}, I drew the`,
      word => `I sing about the ${word} and the`,
      word => `Once a ${word} dreamed of a`,
      word => `A poem of the ${word} and of the`,
    ]),
  ]
}

function questionAnswering(random: Random, world: World): Pool[] {
  const capitals = world.places.map(({ name, capital }): [string, string] => [name, ` ${capital}.`])
  const rulers = world.places.map(({ name, ruler }): [string, string] => [name, ` ${ruler}.`])
  return [
    phrasings(random, 'question_answering', 'capital', capitals, [
      place => `What is the capital of ${place}?`,
      place => `Name the capital of ${place}.`,
      place => `The capital of ${place} is`,
      place => `Which city is the capital of ${place}?`,
    ]),
    phrasings(random, 'question_answering', 'ruler', rulers, [
      place => `Who rules ${place}?`,
      place => `Name the ruler of ${place}.`,
      place => `The ruler of ${place} is`,
      place => `Who is the ruler of ${place}?`,
    ]),
  ]
}

function summarization(random: Random, count: number): Pool[] {
  const words = Object.values(TOPICS).flat()
  const lists = new Map<string, [string, string]>()
  while (lists.size < count) {
    const list = shuffled(random, words).slice(0, 3 + below(random, 3))
    const prompt = `List: ${list.join(', ')}. First and last:`
    lists.set(prompt, [prompt, ` ${list[0]} and ${list[list.length - 1]}.`])
  }
  const topics: [string, string, string][] = []
  for (const [topic, members] of Object.entries(TOPICS)) {
    for (const a of members) {
      for (const b of members) {
        for (const c of members) {
          if (a === b || b === c || a === c) continue
          topics.push([`List: ${a}, ${b}, ${c}. In one word:`, ` ${topic}.`, [a, b, c].sort().join(' ')])
        }
      }
    }
  }
  return [pool('summarization', 'first_last', [...lists.values()]), pool('summarization', 'topic', topics)]
}

function translation(world: World): Pool[] {
  const document = (...words: string[]): [string, string] => [
    `English: ${words.join(' ')}. Velan:`,
    ` ${words.map(word => world.velan.get(word)).join(' ')}.`,
  ]
  const nouns = [...ANIMALS, ...FOODS, ...NATURE]
  const phrases: [string, string][] = []
  const sentences: [string, string][] = []
  for (const noun of nouns) {
    for (const color of COLORS.slice(0, 4)) {
      phrases.push(document(color, noun))
      for (const size of SIZES) phrases.push(document(size, color, noun))
    }
    for (const size of SIZES) phrases.push(document(size, noun))
    for (const verb of VERBS) {
      for (const object of nouns) if (object !== noun) sentences.push(document(noun, verb, object))
    }
  }
  // Single words are taught in full: nobody can guess a word of an invented language.
  const words = [...world.velan.keys()].map(word => document(word))
  return [pool('translation', 'phrase', phrases, words), pool('translation', 'sentence', sentences)]
}

function split(random: Random, { always, choices }: Pool, sizes: Sizes): Corpus {
  const keys = shuffled(random, [...new Set(choices.map(({ key }) => key))])
  const held = keys.slice(0, sizes.probe + sizes.validation)
  if (held.length < sizes.probe + sizes.validation) throw new Error('too few items to hold out')
  // One item per held-out key; its mirror images are neither taught nor asked.
  const chosen = new Map(shuffled(random, choices).map(({ key, item }) => [key, item]))
  const heldItems = held.map(key => chosen.get(key) as Item)
  const heldKeys = new Set(held)
  const rest = shuffled(
    random,
    choices.filter(({ key }) => !heldKeys.has(key)).map(({ item }) => item),
  )
  return {
    train: [...always, ...rest.slice(0, sizes.train)],
    probe: heldItems.slice(0, sizes.probe),
    validation: heldItems.slice(sizes.probe),
  }
}

/** The whole corpus: the same seed and sizes always give the same documents in the same order. */
export function makeCorpus(seed: number = DEFAULT_SEED, sizes: Sizes = DEFAULT_SIZES): Corpus {
  const world = makeWorld(seed)
  const random = seededRandom(seed + 1)
  const pools = [
    ...conversation(random),
    ...codeGeneration(world),
    ...mathematicalReasoning(),
    ...creativeWriting(random, world),
    ...questionAnswering(random, world),
    ...summarization(random, sizes.train + sizes.probe + sizes.validation),
    ...translation(world),
  ]
  const corpus: Corpus = { train: [], probe: [], validation: [] }
  for (const one of pools) {
    const { train, probe, validation } = split(random, one, sizes)
    corpus.train.push(...train)
    corpus.probe.push(...probe)
    corpus.validation.push(...validation)
  }
  return corpus
}
