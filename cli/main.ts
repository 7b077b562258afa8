// `hartonomous`: a GraphQL client of the gateway, nothing more. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
import { spawn } from 'node:child_process'
import { Command, CommanderError } from 'commander'
import { compiledFile } from '../lib/project.js'
import * as capabilities from './capability-commands.js'
import * as fusing from './fusion-commands.js'
import * as texts from './generate-commands.js'
import * as jobs from './job-commands.js'
import * as models from './model-commands.js'
import { type MixtureOption, mixtureOption, number, oneOf, webAddress, wholeNumber } from './option-values.js'
import * as policies from './policy-commands.js'
import { type GlobalOptions, type Session, withSession } from './session.js'
import * as students from './student-commands.js'

const collect = (value: string, previous: string[] = []) => [...previous, value]
const recipeStatus = oneOf(['proposed', 'approved', 'rejected', 'building', 'built', 'failed'])
const jobState = oneOf(['queued', 'running', 'succeeded', 'failed', 'cancelled'])
const samples = wholeNumber(0, 100_000)

const program = new Command('hartonomous')
  .description(
    'Takes a large open model apart, shows which parts carry which capability, builds and serves small students.',
  )
  .option(
    '--url <address>',
    'address of a running platform (default: the one on this machine, or one started for this command)',
    webAddress,
  )
  .option('--json', 'print JSON instead of tables')
  .option('--ids', 'show whole ids in tables, not only their ends (commands take both)')
  .exitOverride()

let exitCode = 0
/** Registers what a command does; its arguments come as commander gives them, the session first. */
const run =
  <A extends unknown[]>(work: (session: Session, ...args: A) => Promise<unknown>) =>
  async (...args: unknown[]) => {
    exitCode = await withSession(program.opts<GlobalOptions>(), session => work(session, ...(args.slice(0, -1) as A)))
  }

program
  .command('serve')
  .description('run the platform in the foreground (as `npm start` does)')
  .action(async () => {
    const child = spawn(process.execPath, [compiledFile('gateway/main.js')], { stdio: 'inherit' })
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal))
    exitCode = await new Promise<number>(resolve => child.once('exit', code => resolve(code ?? 1)))
  })

program
  .command('ingest <source>')
  .description('take a model in: a .safetensors or .gguf file, a folder, https://…, hf:owner/name[@revision]')
  .option('--name <name>', 'name of the model (default: from the source)')
  .option('--model-version <version>', 'version label')
  .option('--revision <revision>', 'branch, tag or commit of a repository')
  .action(run(models.ingest))
program
  .command('models [name]')
  .description('list models, or those whose name contains a text')
  .action(run(models.listModels))
program
  .command('show <model>')
  .description('one model: dimensions, lineage, scores, which layer carries what')
  .action(run(models.show))
program
  .command('analyze <model>')
  .description('measure which layer carries which capability')
  .option('--samples <n>', 'samples per capability (0: all)', samples, 8)
  .option('--probes <set>', 'probe set: id, name or a JSONL file (default: the built-in one)')
  .action(run(models.analyze))
program
  .command('capabilities')
  .description('list the taxonomy, or what analyses found that nobody named')
  .option('--proposed', 'only what analyses found and nobody has judged, with example prompts')
  .action(run(capabilities.listCapabilities))
program
  .command('rename-capability <capability> <name>')
  .description('give a capability that an analysis found its name')
  .option('--description <text>', 'what it covers')
  .action(run(capabilities.rename))
program
  .command('merge-capability <capability> <into>')
  .description('say that a capability that an analysis found is really another one')
  .action(run(capabilities.merge))
program
  .command('dismiss-capability <capability>')
  .description('say that a capability that an analysis found is nothing')
  .action(run(capabilities.dismiss))
program
  .command('propose <model>')
  .description('propose students: which layers to keep, how large, how good')
  .option('--capability <slug>', 'only for this capability (repeatable)', collect)
  .option('--maximum-parameters <n>', 'upper bound of the student’s parameters', wholeNumber(1))
  .option(
    '--mixture <name=slug:weight,…>',
    'for several capabilities at once (repeatable)',
    (value, previous?: MixtureOption[]) => [...(previous ?? []), mixtureOption(value)],
  )
  .option('--budget <seconds>', 'search this long, and propose all sizes that no smaller one beats', number(1, 86_400))
  .option('--budget-tokens <n>', 'the same in tokens run through the whole model', wholeNumber(1))
  .option(
    '--correct-cuts',
    'fit projections at the cuts before proposals are judged; minutes each, half of a budget (see below)',
  )
  .option('--samples <n>', 'samples per capability (0: all; default: 8, with a budget as many as it affords)', samples)
  .option('--probes <set>', 'probe set: id, name or a JSONL file (default: the one last analysed with)')
  .addHelpText(
    'after',
    `
A useful budget begins at about a minute for a model of 100 M parameters on two cores; more is better.
With --correct-cuts the first fit runs to its end whatever the budget, so that a search may take minutes longer than asked.`,
  )
  .action(run(students.propose))
program
  .command('recipes')
  .description('list recipes')
  .option('--parent <model>', 'of this model only')
  .option('--status <status>', 'proposed, approved, rejected, building, built, failed', recipeStatus)
  .action(run(students.listRecipes))
program
  .command('recipe <recipe>')
  .description('one recipe with its reasons, as mergekit YAML too')
  .action(run(students.showRecipe))
program
  .command('create-recipe <file>')
  .description(
    'a recipe of your own from a mergekit passthrough YAML file, with a section `hartonomous` for pruning, healing and quantisation',
  )
  .option('--name <name>', 'name of the recipe and its student (default: `name:` in the file, or from the parent)')
  .action(run(students.createRecipe))
program
  .command('approve <recipe>')
  .description('allow a recipe to be built')
  .option('--reason <text>', 'why, for the record')
  .action(run(students.approve))
program.command('reject <recipe> <reason>').description('turn a recipe down').action(run(students.reject))
const policy = program
  .command('policy')
  .description('what is approved without a person, and what follows by itself')
  .action(run(policies.showPolicy))
policy
  .command('set')
  .description('change the policy; what is not named stays as it is, 0 lifts a limit')
  .option('--enabled', 'decide on proposals')
  .option('--no-enabled', 'leave every proposal to a person')
  .option('--minimum-quality <q>', 'lowest predicted quality to approve (1 is the parent)', number(0))
  .option('--maximum-parameters <n>', 'largest student to approve', wholeNumber(0))
  .option('--capability <slug>', 'approve recipes for this capability only (repeatable)', collect)
  .option('--any-capability', 'approve recipes for all capabilities')
  .option('--maximum-cost <seconds>', 'most device seconds to build and measure', number(0))
  .option('--analyze-on-ingest', 'analyse what was ingested')
  .option('--no-analyze-on-ingest')
  .option('--samples <n>', 'samples per capability of those analyses', samples)
  .option('--propose-on-analysis', 'search for students when an analysis is done')
  .option('--no-propose-on-analysis')
  .option('--budget <seconds>', 'of those searches (0: the short search)', number(0, 86_400))
  .option('--build-on-approval', 'build what the policy approves')
  .option('--no-build-on-approval')
  .action(run(policies.setPolicy))
program
  .command('prune-heads <model>')
  .description('a student without the attention heads that matter least')
  .option(
    '--remove <n>',
    'key/value heads to remove from each layer, with the query heads that share them',
    wholeNumber(1),
    1,
  )
  .option('--query-heads', 'remove this many query heads from every key/value head instead')
  .option(
    '--metric <metric>',
    'task_loss (measured), gradient or random',
    oneOf(['task_loss', 'gradient', 'random']),
    'task_loss',
  )
  .option('--seed <n>', 'of random', wholeNumber(), 0)
  .option('--fit', 'fit the output projections anew, where that helps')
  .option('--capability <slug>', 'the capability to keep (default: all)')
  .option('--samples <n>', 'samples per capability to measure on', wholeNumber(1, 100_000), 8)
  .option('--probes <set>', 'probe set: id, name or a JSONL file (default: the built-in one)')
  .option('--name <name>', 'name of the student (default: from the model)')
  .action(run(students.pruneHeads))
program
  .command('distill <model>')
  .description('a student trained after a teacher, kept only where held-out loss falls')
  .option('--teacher <model>', 'with the same tokens (default: the model’s parent)')
  .option('--tokens <n>', 'tokens to train on', wholeNumber(64), 40_960)
  .option('--rate <r>', 'highest learning rate', number(0, 1), 2e-4)
  .option('--batch <n>', 'rows of 256 tokens in one step', wholeNumber(1), 1)
  .option('--cross-entropy <share>', 'share of the texts’ own loss beside the teacher’s (default: 0.5)', number(0, 1))
  .option('--on-policy <share>', 'share of the rows that the student writes itself', number(0, 1), 0)
  .option('--hidden <weight>', 'weight of the hidden-state loss', number(0), 0)
  .option('--temperature <t>', 'of teacher and student', number(0), 1)
  .option('--train <part>', 'all, layers, norms or lora', oneOf(['all', 'layers', 'norms', 'lora']), 'all')
  .option('--layers <list>', 'with --train layers: layers of the student, as 0,1,2', (list: string) =>
    list.split(',').map(Number),
  )
  .option('--rank <n>', 'with --train lora: rank of the changes', wholeNumber(1), 16)
  .option('--keep-adapter', 'with --train lora: keep the changes, for export --format peft')
  .option('--seed <n>', 'of the order of texts', wholeNumber(), 1)
  .option('--capability <slug>', 'the capability it is for (default: all)')
  .option('--data <set>', 'texts: probe set by id or name, or a JSONL or text file (default: the built-in one)')
  .option('--name <name>', 'name of the student (default: from the model)')
  .action(run(students.distill))
program
  .command('build <recipe>')
  .description('build the student of an approved recipe and measure it')
  .action(run(students.build))

const sampling = (command: Command) =>
  command
    .option('--max-tokens <n>', 'longest answer', wholeNumber(1), 128)
    .option('--temperature <t>', '0 is greedy', number(0), 0)
    .option('--top-p <p>', 'nucleus sampling, above 0 to 1', number(0, 1))
    .option('--top-k <k>', 'sample among the k likeliest', wholeNumber(1))
    .option('--min-p <p>', 'sample among tokens at least p times as likely as the likeliest', number(0, 1))
    .option('--repetition-penalty <x>', 'above 1: fewer repetitions', number(0.1, 10))
    .option('--stop <text>', 'ends the answer (repeatable)', collect)
    .option('--seed <n>', 'makes sampling reproducible', wholeNumber())
sampling(program.command('generate <model> <prompt>').description('continue a text'))
  .option('--log-probabilities <n>', 'how likely each token was, and the n likeliest (0 to 20)', wholeNumber(0, 20))
  .action(run(texts.generate))
sampling(
  program
    .command('chat <model>')
    .description('talk to a model, line by line')
    .option('--system <text>', 'system message'),
).action(run(texts.chat))
program
  .command('export <model>')
  .description('write a model’s files for other programs')
  .option(
    '--format <format>',
    'safetensors (opens in transformers), gguf (llama.cpp), onnx (transformers.js, onnxruntime-genai) or peft (the adapter of a model trained with --keep-adapter)',
    oneOf(['safetensors', 'gguf', 'onnx', 'peft']),
    'safetensors',
  )
  .option(
    '--quantization <type>',
    'of all matrices: f32, f16, bf16 or parent (the type of the model it descends from), for gguf and onnx q8_0, q4_0, q4_1 too (default: as stored)',
    oneOf(['f32', 'f16', 'bf16', 'parent', 'q8_0', 'q4_0', 'q4_1']),
  )
  .option('--output <folder>', 'download the files into this folder')
  .action(run(models.exportModel))
program
  .command('quantize <model>')
  .description('make a model with 4- or 8-bit weights of another, and measure what that changes')
  .option('--type <type>', 'int4 or int8', oneOf(['int4', 'int8']), 'int4')
  .option('--asymmetric', 'codes over a minimum of each block instead of around zero')
  .option('--block-size <n>', 'weights that share a scale: 32, 64 or 128', wholeNumber(32, 128), 32)
  .option('--round-to-nearest', 'from the weights alone, without calibration')
  .option('--embeddings <type>', 'keep, int8 or int4', oneOf(['keep', 'int8', 'int4']), 'int8')
  .option(
    '--head <type>',
    'keep, int8 or int4; of the embeddings too where both are one table',
    oneOf(['keep', 'int8', 'int4']),
    'int8',
  )
  .option(
    '--raised <role>',
    'a matrix, as layers.3.down, that gets 8 bits although the type is int4; may be given several times',
    (value: string, before: string[] = []) => [...before, value],
  )
  .option('--calibration-tokens <n>', 'tokens to calibrate with', wholeNumber(32, 1_000_000))
  .option('--maximum-bytes <n>', 'choose codes by measured sensitivity so that the model is no larger', wholeNumber(1))
  .option(
    '--minimum-quality <q>',
    'the fewest bytes at which exp(-KL from the model before) is at least this, below 1',
    number(0, 1),
  )
  .option('--requantize', 'take the values of a model that came quantised as they are')
  .option('--probes <set>', 'probe set: id, name or a JSONL file (default: the built-in one)')
  .option('--samples <n>', 'validation samples per capability to compare on', wholeNumber(1), 8)
  .option('--name <name>', 'name of the new model')
  .action(run(models.quantize))
program
  .command('fuse <model>')
  .description('time what of the model’s graph can be computed at once on this machine, and do what is worth it')
  .option('--threshold <factor>', 'least speed-up to be applied', number(0, 1000), 1.2)
  .option('--together', 'hold it against all fusions at once instead of each by itself')
  .option(
    '--only <fusion>',
    'norm_weight, qkv, gate_up, norm_attention or residual_norm (repeatable; default: all)',
    (value, previous?: string[]) =>
      collect(oneOf(['norm_weight', 'qkv', 'gate_up', 'norm_attention', 'residual_norm'])(value), previous),
  )
  .option('--tolerance <share>', 'largest move of a logit, as a share of the greatest', number(0, 1), 1e-4)
  .option('--rounds <n>', 'of timing in turns', wholeNumber(3, 101), 9)
  .option('--probes <set>', 'probe set that outputs are compared on (default: the built-in one)')
  .option('--name <name>', 'name of the fused model')
  .action(run(fusing.fuse))
program
  .command('unfuse <model>')
  .description('give a fused model back as it was')
  .option('--name <name>', 'name, where it has to be registered anew')
  .action(run(fusing.unfuse))
program
  .command('delete <model>')
  .description('delete a model; tensors that others share stay. At a terminal it asks first')
  .option('--yes', 'do not ask')
  .action(run(models.deleteModel))

program
  .command('jobs')
  .description('list jobs, newest first')
  .option(
    '--state <state>',
    'queued, running, succeeded, failed, cancelled (repeatable)',
    (value, previous?: string[]) => collect(jobState(value), previous),
  )
  .option('--first <n>', 'how many, up to 100', wholeNumber(0, 100), 20)
  .action(run(jobs.jobs))
program.command('watch <job>').description('follow a job to its end, and print what came of it').action(run(jobs.watch))
program.command('cancel <job>').description('stop a job').action(run(jobs.cancel))
program.command('retry <job>').description('start a failed or cancelled job again').action(run(jobs.retry))
program
  .command('devices')
  .description('what this machine can compute on, and what runs there now')
  .action(run(jobs.devices))
program.command('storage').description('how much is stored, how much sharing saves').action(run(jobs.storage))
program.command('verify').description('re-hash every stored payload').action(run(jobs.verify))
program.command('gc').description('remove payloads that no model refers to').action(run(jobs.collect))

/** What is wrong is one line, and this one says where to read on. */
function pointToHelp(command: Command, called: string) {
  command.showHelpAfterError(`See \`${called} --help\`.`)
  for (const own of command.commands) pointToHelp(own, `${called} ${own.name()}`)
}
pointToHelp(program, program.name())

try {
  await program.parseAsync()
} catch (error) {
  if (!(error instanceof CommanderError)) throw error
  exitCode = error.exitCode === 0 ? 0 : 2
}
process.exit(exitCode)
