// Opens an ONNX folder with transformers.js and continues the prompts of standard input greedily.
// node greedy-tokens-transformers-js.mjs MODULES DTYPE FOLDER COUNT, where MODULES is a folder that @huggingface/transformers is installed in.
// Input: JSON list of texts. Output: JSON list of {prompt, tokens, margins} (token ids; logit of the best token minus that of the second best).
import { createRequire } from 'node:module'
import { basename, dirname, join } from 'node:path'
import { json } from 'node:stream/consumers'
import { pathToFileURL } from 'node:url'

const [modules, dtype, folder, count] = process.argv.slice(2)
const entry = createRequire(join(modules, 'index.js')).resolve('@huggingface/transformers')
const { AutoModelForCausalLM, AutoTokenizer, env, LogitsProcessor, LogitsProcessorList } = await import(
  pathToFileURL(entry)
)
env.allowRemoteModels = false
env.localModelPath = dirname(folder)
const name = basename(folder)

const margins = []
class Margins extends LogitsProcessor {
  _call(_ids, logits) {
    const best = [...logits.data.subarray(-logits.dims.at(-1))].sort((a, b) => b - a)
    margins.push(best[0] - best[1])
    return logits
  }
}

const tokenizer = await AutoTokenizer.from_pretrained(name)
const model = await AutoModelForCausalLM.from_pretrained(name, { dtype, device: 'cpu' })
const answers = []
for (const text of await json(process.stdin)) {
  const inputs = tokenizer(text)
  margins.length = 0
  const logits_processor = new LogitsProcessorList()
  logits_processor.push(new Margins())
  const output = await model.generate({ ...inputs, max_new_tokens: Number(count), do_sample: false, logits_processor })
  const [length] = inputs.input_ids.dims.slice(-1)
  const all = output.tolist()[0].map(Number)
  answers.push({ prompt: all.slice(0, length), tokens: all.slice(length), margins: [...margins] })
}
process.stdout.write(JSON.stringify(answers))
