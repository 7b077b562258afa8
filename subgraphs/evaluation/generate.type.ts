// What goes into a generation and what comes out, at once or piece by piece.
import { Field, Float, ID, InputType, Int, ObjectType } from 'type-graphql'
import { registerValues, UserError } from '../build/common-types.js'
import { Job } from './references.js'

export const FinishReason = registerValues('FinishReason', 'Why a generation ended.', {
  STOP: 'The model ended its answer, or a stop text came up.',
  LENGTH: 'maxTokens were made, or the model’s context is full.',
})
export type FinishReason = keyof typeof FinishReason

@InputType({ description: 'One message of a conversation.' })
export class ChatMessageInput {
  @Field(() => String, {
    description: 'Who speaks: system, user or assistant, as far as the model’s chat template knows them.',
  })
  role!: string
  @Field(() => String, { description: 'What is said.' })
  content!: string
}

@InputType({ description: 'What to continue, and how. Exactly one of `prompt` and `messages` is given.' })
export class GenerateInput {
  @Field(() => ID, { description: 'The model that writes.' })
  modelId!: string
  @Field(() => String, { nullable: true, description: 'Text to continue as it stands; no chat template is applied.' })
  prompt?: string | null
  @Field(() => [ChatMessageInput], {
    nullable: true,
    description:
      'A conversation to answer, written out by the model’s chat template (a plain one where it has none); 1 to 1,000 messages.',
  })
  messages?: ChatMessageInput[] | null
  @Field(() => Int, { defaultValue: 64, description: 'At most this many tokens are made: 1 to 131,072.' })
  maxTokens!: number
  @Field(() => Float, {
    defaultValue: 0,
    description: '0 takes the most probable token every time; higher is more varied: 0 to 10.',
  })
  temperature!: number
  @Field(() => Float, {
    nullable: true,
    description: 'Samples among the most probable tokens that together reach this probability: above 0, at most 1.',
  })
  topP?: number | null
  @Field(() => Int, { nullable: true, description: 'Samples among this many most probable tokens: at least 1.' })
  topK?: number | null
  @Field(() => Float, {
    nullable: true,
    description: 'Samples among the tokens at least this many times as probable as the most probable one: 0 to 1.',
  })
  minP?: number | null
  @Field(() => Float, {
    nullable: true,
    description:
      'Above 1 makes tokens that prompt or answer hold already less probable (positive logits are divided by it, negative ones multiplied), below 1 more: 0.1 to 10.',
  })
  repetitionPenalty?: number | null
  @Field(() => Int, {
    nullable: true,
    description:
      'The same seed, input and machine give the same text, whatever else the machine writes at the time; default: random.',
  })
  seed?: number | null
  @Field(() => [String], {
    nullable: true,
    description: 'Texts that end the answer; they are left out of it. At most 16, none empty.',
  })
  stop?: string[] | null
  @Field(() => Int, {
    nullable: true,
    description:
      'Gives the log-probability of every token made, and of this many of the most probable ones in its place: 0 to 20; default: none.',
  })
  logProbabilities?: number | null
  @Field(() => String, {
    nullable: true,
    description: 'Who asks, in your own terms; kept with the job. At most 200 characters.',
  })
  userId?: string | null
  @Field(() => String, {
    nullable: true,
    description:
      'Your name for this generation, 1 to 200 characters: the same name with the same input gives the same generation, running or finished, as a whole or as a stream from its beginning.',
  })
  idempotencyKey?: string | null
}

@ObjectType({ description: 'What a generation cost.' })
export class GenerationUsage {
  @Field(() => Int, { description: 'Tokens read.' })
  promptTokens!: number
  @Field(() => Int, { description: 'Tokens made.' })
  completionTokens!: number
  @Field(() => Float, {
    nullable: true,
    description: 'Speed of making them, reading the prompt not counted; null for fewer than two tokens.',
  })
  tokensPerSecond!: number | null
  @Field(() => Int, {
    description: 'Of the tokens read, those known from an earlier text that began with them: they cost nothing.',
  })
  reusedPromptTokens!: number
}

@ObjectType({ description: 'A token and how probable the model found it, before temperature, cuts and penalties.' })
export class TokenProbability {
  @Field(() => Int, { description: 'Its id in the vocabulary.' })
  token!: number
  @Field(() => String, { description: 'The token alone as text; U+FFFD where it is a part of a character.' })
  text!: string
  @Field(() => Float, { description: 'Natural logarithm of its probability: at most 0.' })
  logProbability!: number
}

@ObjectType({ description: 'A token that was made, and what else the model thought of.' })
export class GeneratedToken extends TokenProbability {
  @Field(() => [TokenProbability], {
    description: 'The most probable tokens in its place, the most probable first; as many as were asked for.',
  })
  alternatives!: TokenProbability[]
}

@ObjectType({ description: 'What a model wrote.' })
export class GeneratePayload {
  @Field(() => String, { nullable: true, description: 'The text, without the prompt; null where nothing was made.' })
  text?: string | null
  @Field(() => FinishReason, { nullable: true, description: 'Why it ended there.' })
  finishReason?: FinishReason | null
  @Field(() => GenerationUsage, { nullable: true, description: 'What it cost.' })
  usage?: GenerationUsage | null
  @Field(() => [GeneratedToken], {
    nullable: true,
    description: 'Every token made, with its log-probability; null unless `logProbabilities` asked for them.',
  })
  tokens?: GeneratedToken[] | null
  @Field(() => Job, { nullable: true, description: 'The job that made it; null where none was queued.' })
  job?: Job | null
  @Field(() => [UserError], { description: 'Why nothing was made; empty otherwise.' })
  userErrors!: UserError[]
}

@ObjectType({ description: 'A piece of a text as it is made; the last one has `finishReason` and `usage`.' })
export class GenerationEvent {
  @Field(() => Job, { description: 'The job that makes the text; others can watch it with `watchGeneration`.' })
  job!: Job
  @Field(() => String, {
    description: 'Text that follows what came before; all of them joined are the answer. Empty in the last event.',
  })
  textDelta!: string
  @Field(() => Int, { description: 'Characters (UTF-16 code units) of the text before this piece.' })
  offset!: number
  @Field(() => [Int], {
    description:
      'Ids of all tokens made since the piece before: several where a character takes several, or where the reader was behind. Those of all events joined are the answer’s tokens.',
  })
  tokenIds!: number[]
  @Field(() => [GeneratedToken], {
    nullable: true,
    description: 'The same tokens with their log-probabilities; null unless `logProbabilities` asked for them.',
  })
  tokens!: GeneratedToken[] | null
  @Field(() => Int, {
    nullable: true,
    description: 'Id of the token that completed the piece; null in the last event.',
  })
  token!: number | null
  @Field(() => Int, {
    description: 'Place of that token in the answer, from 0; only grows. In the last event the number of tokens made.',
  })
  index!: number
  @Field(() => FinishReason, { nullable: true, description: 'Why the text ends here; null until then.' })
  finishReason!: FinishReason | null
  @Field(() => GenerationUsage, { nullable: true, description: 'What it cost; null until the end.' })
  usage!: GenerationUsage | null
}
