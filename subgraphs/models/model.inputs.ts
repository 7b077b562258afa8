// Arguments, inputs and payloads of the models subgraph.
import { ArgsType, Field, ID, InputType, Int, ObjectType } from 'type-graphql'
import type { ExportQuantization } from '../../compute/pool/job-types.js'
import type { TensorComponent } from '../../lib/manifest.js'
import { registerValues, UserError } from '../build/common-types.js'
import { ConnectionArguments } from '../build/connection.js'
import { JobReference, Model } from './model.type.js'
import { TensorComponentEnum } from './tensor.type.js'

@ArgsType()
export class ModelsArguments extends ConnectionArguments {
  @Field(() => String, { nullable: true, description: 'Only models whose name contains this text, whatever the case.' })
  nameContains?: string | null
  @Field(() => String, { nullable: true, description: 'Only models of this architecture, e.g. llama.' })
  architecture?: string | null
  @Field(() => Boolean, { nullable: true, description: 'true: only models built here; false: only ingested ones.' })
  isStudent?: boolean | null
}

@ArgsType()
export class TensorsArguments extends ConnectionArguments {
  @Field(() => Int, { nullable: true, description: 'Only tensors of this layer, from 0.' })
  layerIndex?: number | null
  @Field(() => TensorComponentEnum, { nullable: true, description: 'Only tensors of this part of the network.' })
  component?: TensorComponent | null
  @Field(() => String, {
    nullable: true,
    description: 'Only tensors whose name contains this text, whatever the case.',
  })
  nameContains?: string | null
}

const idempotencyKey = {
  nullable: true,
  description:
    'Up to 200 characters of the caller’s choice: the same key and input give the same result instead of a second one.',
}
const userErrors = { description: 'What was wrong with the input; empty where all went well.' }

@InputType({ description: 'What to ingest.' })
export class IngestModelInput {
  @Field(() => String, {
    description:
      'A path or file:, https: or hf:owner/name[/file][@revision]: one file (.safetensors, .gguf), a sharded index, a folder, or a repository. At most 4096 characters.',
  })
  source!: string
  @Field(() => String, {
    nullable: true,
    description: 'Name of the model, 1 to 200 characters; default: from the source.',
  })
  name?: string | null
  @Field(() => String, { nullable: true, description: 'Version as its owner calls it, at most 100 characters.' })
  version?: string | null
  @Field(() => String, { nullable: true, description: 'Branch, tag or commit of an hf: repository; default: main.' })
  revision?: string | null
  @Field(() => String, idempotencyKey)
  idempotencyKey?: string | null
}

@ObjectType({ description: 'The job that ingests, and the model once it is there.' })
export class IngestModelPayload {
  @Field(() => Model, {
    nullable: true,
    description: 'The model, where an earlier call with the same key has finished; otherwise see job.model.',
  })
  model?: Model | null
  @Field(() => JobReference, { nullable: true, description: 'The job that ingests.' })
  job?: JobReference | null
  @Field(() => [UserError], userErrors)
  userErrors!: UserError[]
}

export type ExportFormat = 'SAFETENSORS' | 'GGUF' | 'ONNX' | 'PEFT'
export const ExportFormatEnum = registerValues<ExportFormat>('ExportFormat', 'File formats a model is written in.', {
  SAFETENSORS:
    'Hugging Face layout: model.safetensors, config.json, tokenizer files and a model card; byte for byte as it came where it came so and `quantization` is not given.',
  ONNX: 'A folder that transformers.js and onnxruntime-genai open: onnx/model.onnx (float16: model_fp16, 8-bit blocks: model_quantized, 4-bit blocks: model_q4) with its weights beside it, config.json, genai_config.json, tokenizer files and a model card. Not read back.',
  PEFT: 'The low-rank changes alone that a model was trained by with `lora.keepAdapter`: adapter_model.safetensors and adapter_config.json, for the model it was before them.',
  GGUF: 'One .gguf file that llama.cpp opens; byte for byte as it came where it came so and `quantization` is not given.',
})
export const ExportQuantizationEnum = registerValues<ExportQuantization | 'PARENT'>(
  'ExportQuantization',
  'Types that an export can bring all matrices into; vectors stay float32 in GGUF and ONNX, and follow in SafeTensors, which takes plain types only.',
  {
    F32: 'float32.',
    F16: 'float16, rounded to nearest, ties to even.',
    BF16: 'bfloat16, rounded to nearest, ties to even. ONNX files take none.',
    PARENT:
      'The plain type that most weights have of the model it descends from: trained tensors are kept as float32, and published in the type of the original.',
    Q8_0: '8-bit codes, one float16 scale per block of 32 (8.5 bits per weight), rounded to nearest.',
    Q4_0: '4-bit codes, one float16 scale per block of 32 (4.5 bits per weight), rounded to nearest.',
    Q4_1: '4-bit codes, float16 scale and minimum per block of 32 (5 bits per weight), rounded to nearest.',
  },
)

@InputType({ description: 'Which model to write in which format.' })
export class ExportModelInput {
  @Field(() => ID, { description: 'The model.' })
  modelId!: string
  @Field(() => ExportFormatEnum, { description: 'Format of the files.' })
  format!: ExportFormat
  @Field(() => ExportQuantizationEnum, {
    nullable: true,
    description:
      'Type of all matrices; default: as they are stored, byte for byte (ONNX: plain numbers as float32). Rows that are no whole blocks become F16 (ONNX: F32). SafeTensors takes F32, F16, BF16 and PARENT, ONNX all but BF16, GGUF all.',
  })
  quantization?: ExportQuantization | 'PARENT' | null
  @Field(() => String, idempotencyKey)
  idempotencyKey?: string | null
}

@ObjectType({
  description:
    'The job that exports; its output has `files: [{ path, url, sizeBytes, sha256 }]` and `notes`, sentences on what they hold otherwise than the model is stored.',
})
export class ExportModelPayload {
  @Field(() => JobReference, { nullable: true, description: 'The job that exports.' })
  job?: JobReference | null
  @Field(() => [UserError], userErrors)
  userErrors!: UserError[]
}

@InputType({ description: 'Which model to delete.' })
export class DeleteModelInput {
  @Field(() => ID, { description: 'The model. Tensors that other models share stay.' })
  modelId!: string
}

@ObjectType({ description: 'The deleted model: its row stays for lineage.' })
export class DeleteModelPayload {
  @Field(() => Model, { nullable: true, description: 'The model, with `deletedAt`.' })
  model?: Model | null
  @Field(() => [UserError], userErrors)
  userErrors!: UserError[]
}

@InputType({ description: 'Options of a verification of the payload store.' })
export class VerifyStorageInput {
  @Field(() => String, idempotencyKey)
  idempotencyKey?: string | null
}

@ObjectType({ description: 'The job that re-hashes every payload; its output names the corrupt ones.' })
export class VerifyStoragePayload {
  @Field(() => JobReference, { nullable: true, description: 'The job that verifies.' })
  job?: JobReference | null
  @Field(() => [UserError], userErrors)
  userErrors!: UserError[]
}

@InputType({ description: 'Options of a garbage collection.' })
export class CollectGarbageInput {
  @Field(() => String, idempotencyKey)
  idempotencyKey?: string | null
}

@ObjectType({ description: 'The job that removes payloads nothing refers to; it never runs beside another job.' })
export class CollectGarbagePayload {
  @Field(() => JobReference, {
    nullable: true,
    description: 'The job that collects; its output says how many payloads and bytes went.',
  })
  job?: JobReference | null
  @Field(() => [UserError], userErrors)
  userErrors!: UserError[]
}
