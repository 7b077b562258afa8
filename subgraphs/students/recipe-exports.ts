// Which formats can hold a recipe's student, before anything is built for it: what the writers of compute/handlers/export-*.ts would refuse.
import type { BuildStages } from '../../lib/build-stages.js'
import { DomainError } from '../../lib/errors.js'
import type { StudentLayer } from './recipe-size.js'

/** Names of the one family whose layers may differ in GGUF files, under llama.cpp's name `deci`. */
export const llamaNames: readonly string[] = ['llama', 'mistral', 'smollm', 'deci']

/**
 * @param layers of the student, as pruning leaves them; absent where the models do not say their sizes
 * @throws INVALID_RECIPE where a format that is asked for cannot hold layers of different sizes
 */
export function checkExports(
  { exports }: BuildStages,
  architecture: string,
  layers: readonly StudentLayer[] | undefined,
): void {
  const asked = (format: string) => exports?.some(name => name.split('_')[0] === format)
  const differs = (size: keyof StudentLayer) => new Set(layers?.map(layer => layer[size])).size > 1
  const widths = differs('queryHeads') || differs('keyValueHeads') || differs('neurons')
  const ggufSays = llamaNames.includes(architecture)
  const instead = ggufSays ? '; GGUF can say it, for llama models' : ', and GGUF can say it for llama models only'
  if (asked('SAFETENSORS') && widths)
    refuse(
      `layers of different widths cannot be written as SAFETENSORS, whose config.json has one number for all of them${instead}`,
    )
  if (asked('ONNX') && differs('keyValueHeads'))
    refuse(
      `layers of different numbers of key/value heads cannot be written as ONNX, whose programs take one number for all${instead}`,
    )
  if (asked('GGUF') && widths && !ggufSays)
    refuse(
      `layers of different numbers of heads or widths cannot be written as GGUF of ${architecture} models, only of llama ones; with the same number in all layers they can`,
    )
}

function refuse(message: string): never {
  throw new DomainError('INVALID_RECIPE', `exports: ${message}`, { field: ['input', 'exports'] })
}
