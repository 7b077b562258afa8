// Messages -> the prompt text that a chat model was trained on, through its own Jinja template.
import { Template } from '@huggingface/jinja'
import { DomainError } from '../../lib/errors.js'
import { runBounded } from '../formats/run-bounded.js'

export interface ChatMessage {
  role: string
  content: string
}

/** Templates are programs of strangers; the longest known ones render a thousand messages in some ten milliseconds. */
const maximumMilliseconds = 1000
/** For models that bring no template: one line per turn, and the answer's turn opened. */
const plainTemplate =
  "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n{% endfor %}" +
  '{% if add_generation_prompt %}Assistant:{% endif %}'

/**
 * Renders messages with the model's template, ending where the answer begins.
 * @param specialTokens texts that templates refer to (`bos_token`, `eos_token`)
 * @throws BAD_USER_INPUT with the template's own words where it refuses the messages (roles that do not alternate, …) or takes too long
 */
export function renderChat(
  template: string | undefined,
  messages: readonly ChatMessage[],
  specialTokens: Readonly<Record<string, string>>,
  addGenerationPrompt = true,
): string {
  try {
    const values = {
      ...specialTokens,
      messages: messages.map(({ role, content }) => ({ role, content })),
      add_generation_prompt: addGenerationPrompt,
      tools: null,
    }
    return runBounded(() => new Template(template ?? plainTemplate).render(values), maximumMilliseconds)
  } catch (cause) {
    const message = `The model's chat template refuses these messages: ${(cause as Error).message}`
    throw new DomainError('BAD_USER_INPUT', message, { field: ['input', 'messages'], cause })
  }
}
