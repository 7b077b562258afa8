// llama.cpp beside our own figures: the scripts of ../shared/peers, run by a Python that has llama-cpp-python.
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { projectFile } from '../../lib/project.js'

const run = promisify(execFile)

export interface LlamaPeer {
  /** Writes the model in another type (`f32`, `q8_0`, …), what is quantised already being dequantised first. */
  requantise(model: string, to: string, type: string): Promise<void>
  /** Tokens per second: one forward pass of `prefill` tokens, then `decode` passes of one token with an arg-max each. */
  speeds(model: string, prefill: number, decode: number, threads: number): Promise<{ prefill: number; decode: number }>
}

/** @param python its interpreter */
export function llamaPeer(python: string): LlamaPeer {
  const script = async (name: string, args: readonly string[]) => {
    const { stdout } = await run(python, [projectFile('..', 'shared', 'peers', name), ...args])
    return JSON.parse(stdout.trim().split('\n').at(-1)!) as Record<string, number>
  }
  return {
    async requantise(model, to, type) {
      await script('llama_quantize.py', [model, to, type])
    },
    async speeds(model, prefill, decode, threads) {
      const numbers = ['--prefill', prefill, '--decode', decode, '--threads', threads, '--repeats', 1].map(String)
      const figures = await script('llama_decode.py', [model, ...numbers])
      return { prefill: figures[`pp${prefill}_tok_s`]!, decode: figures[`tg${decode}_tok_s`]! }
    },
  }
}

/** Name of a file for a type, in a folder. */
export const quantisedFile = (folder: string, type: string) => join(folder, `${type}.gguf`)
