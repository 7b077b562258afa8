// What of a recipe's quantisation can be refused before anything is trained for it.
import type { BuildStages } from '../../lib/build-stages.js'
import { DomainError } from '../../lib/errors.js'
import type { CountedModel, StudentSize } from './recipe-size.js'

/** @throws UNSUPPORTED_FORMAT, INVALID_RECIPE naming the option and what is there */
export function checkCodes(
  models: readonly CountedModel[],
  stages: BuildStages | null,
  { codes, leastBytes }: StudentSize,
): void {
  const { quantization } = stages ?? {}
  if (!quantization) return
  const refuse = (option: string, message: string) => {
    throw new DomainError('INVALID_RECIPE', `quantization.${option}: ${message}`, {
      field: ['input', 'quantization', option],
    })
  }
  for (const model of models) {
    const turned = inputFirst(model)
    if (turned !== undefined)
      throw new DomainError(
        'UNSUPPORTED_FORMAT',
        `quantization: ${turned} of model "${model.name}" is stored as [in, out], along which no kernel reads blocks: export the model as GGUF, ingest that and quantise it`,
        { field: ['input', 'quantization'] },
      )
  }
  const unknown = quantization.raised?.find(role => !codes.has(role))
  if (unknown !== undefined) refuse('raised', `the student has no quantised matrix ${unknown}`)
  const { maximumBytes, type } = quantization
  if (maximumBytes !== undefined && maximumBytes < leastBytes)
    refuse(
      'maximumBytes',
      `${maximumBytes}, but with all layers at the fewest bits that type ${type} allows it is ${Math.ceil(leastBytes)} bytes`,
    )
}

/** A matrix from the hidden size to more, which shows which way matrices are stored. */
const inputFirst = ({ tensors, dimensions: { hiddenSize } }: CountedModel): string | undefined =>
  tensors.find(
    ({ role, shape }) =>
      shape.length === 2 && /^layers\.\d+\.up$/.test(role ?? '') && shape[0] === hiddenSize && shape[1] !== hiddenSize,
  )?.role ?? undefined
