// The one list of job types: name, input, output and lane. Both planes are typed against it; adding a job begins with a line here.
import { z } from 'zod'
import { buildStagesSchema, calibrationSchema, needsDevice } from '../../lib/build-stages.js'
import { fusionCheckSchema, fusionRowSchema, fusionSchema, fusions } from '../../lib/fusion.js'
import { hashSchema } from '../../lib/manifest.js'
import { modelFactsSchema } from '../../lib/model-facts.js'
import { quantizationSchema } from '../../lib/quantization.js'

/** [from, to) layer indices. */
export const layerRangeSchema = z.object({
  from: z.number().int().min(0),
  to: z.number().int().min(1),
  reason: z.string().optional(),
})
export type LayerRange = z.infer<typeof layerRangeSchema>

/** Of the parent, or of another model of its shape. */
const buildLayerRangeSchema = layerRangeSchema.extend({ manifest: hashSchema.optional() })

/** One step of a build as it ended. */
export const stageResultSchema = z.object({
  stage: z.string(),
  /** Hash of the stage's name, parameters and the manifest it began with: what its result is kept under. */
  key: hashSchema,
  /** The manifest it ended with. */
  manifest: hashSchema,
  /** What making it took, also where the result was there already. */
  seconds: z.number(),
  /** Whether the result was there already: from an earlier attempt, or from another build that began alike. */
  reused: z.boolean(),
  /** Floating-point operations of matrix products, by the formula of docs/cost.md; absent where none were made. */
  flops: z.number().optional(),
  /** Figures by name: losses before and after, what was chosen. */
  measurements: z.record(z.string(), z.unknown()).optional(),
})
export type StageResult = z.infer<typeof stageResultSchema>

export const chatMessageSchema = z.object({ role: z.string(), content: z.string() })

/** Lower and upper bound at 95 %, by bootstrap over samples; null where a single sample says nothing about its spread. */
const intervalSchema = z.tuple([z.number(), z.number()]).nullable()

/** Loss of one capability on one split. Loss in nats per completion token; perplexity is its exponential. */
export const capabilityScoreSchema = z.object({
  capability: z.string(),
  loss: z.number(),
  perplexity: z.number(),
  /** Share of samples whose every completion token is the arg-max under teacher forcing. */
  accuracy: z.number().nullable(),
  sampleCount: z.number().int(),
  completionTokens: z.number().int(),
  /** Of the loss. Absent in outputs of earlier versions. */
  interval: intervalSchema.optional(),
})
export type CapabilityScoreOutput = z.infer<typeof capabilityScoreSchema>

/**
 * How large a layer's outputs are: over all tokens but the first of each sample, which in most models carries a value far beyond all others
 * (an attention sink, Xiao et al., arXiv 2309.17453); a sample of one token counts that one.
 */
export const activationSchema = z.object({
  /** Over tokens and hidden units. */
  mean: z.number(),
  standardDeviation: z.number(),
  /** Root mean square. */
  rms: z.number(),
  /** Greatest absolute value. */
  maximum: z.number(),
  /**
   * Mean over tokens of mean(x^4) / mean(x^2)^2 over the hidden units: 3 for a normal distribution, up to the hidden size where one unit
   * holds everything (He et al., arXiv 2405.19279, eq. 1).
   */
  kurtosis: z.number(),
})
export type ActivationOutput = z.infer<typeof activationSchema>

export const layerAnalysisSchema = z.object({
  layerIndex: z.number().int(),
  /** 1 - mean over tokens of cos(layer input, layer output) (ShortGPT, arXiv 2403.03853), over all samples. */
  blockInfluence: z.number(),
  /** Mean L2 norm of the layer's output over tokens. */
  activationNorm: z.number(),
  /**
   * [n - 1]: mean over samples of arccos(cos(layer input, output of the n-th layer from it on)) / pi at the last token (Gromov et al.,
   * arXiv 2403.17887), for n = 1 … 8 as far as there are layers. Absent in outputs of earlier versions.
   */
  angularDistances: z.array(z.number()).optional(),
  /** Over all samples. Absent in outputs of earlier versions, here and below. */
  activation: activationSchema.optional(),
  capabilities: z.array(
    z.object({
      capability: z.string(),
      /** Over this capability's samples. */
      activation: activationSchema.optional(),
      /** Same definition as above, over this capability's samples. */
      blockInfluence: z.number(),
      /** Nats per completion token added when the layer is skipped (its input goes on unchanged). */
      lossIncrease: z.number(),
      /** lossIncrease divided by the greatest of this capability's layers, clipped to [0, 1]. */
      score: z.number(),
    }),
  ),
})
export type LayerAnalysisOutput = z.infer<typeof layerAnalysisSchema>

export const headImportanceSchema = z.object({
  capability: z.string(),
  /** Heads that share a key/value head follow each other. */
  keyValueHeadCount: z.number().int().positive(),
  /** [layer] where layers have different numbers, as pruning leaves them; the one above is then the largest. */
  keyValueHeadCounts: z.array(z.number().int().positive()).optional(),
  /** [layer][query head] mean over samples of |d loss / d gate|, nats per completion token (Michel et al. 2019, arXiv 1905.10650). */
  layers: z.array(z.array(z.number())),
  /**
   * [layer][query head] mean over samples and their positions but the first of -sum p ln p, p the weights with which the position attends,
   * in nats. Absent in outputs of earlier versions.
   */
  entropy: z.array(z.array(z.number())).optional(),
})
export type HeadImportanceOutput = z.infer<typeof headImportanceSchema>

/** A key/value head with its query heads, whose importance says that little is lost without it: what is really lost. */
export const maskedGroupSchema = z.object({
  layerIndex: z.number().int(),
  keyValueHeadIndex: z.number().int(),
  capabilities: z.array(
    z.object({
      capability: z.string(),
      /** Sum of its query heads' importance: what the gradient predicts at most. */
      importance: z.number(),
      /** Nats per completion token added when the group's query heads give 0. */
      lossIncrease: z.number(),
      /** Of lossIncrease. */
      interval: intervalSchema,
    }),
  ),
})
export type MaskedGroupOutput = z.infer<typeof maskedGroupSchema>

export const clusterRoles = ['CARRIES', 'SUPPORTS', 'IDLE'] as const
/** Layers whose mean outputs on a capability's samples differ from those on all capabilities in the same way. */
export const layerClusterSchema = z.object({
  capability: z.string(),
  /** Ascending. */
  layers: z.array(z.number().int()).min(1),
  /** Mean silhouette of its layers, -1 to 1 (Rousseeuw 1987); 0 for a single layer. */
  silhouette: z.number(),
  /** Agreement of the clusters that two halves of the samples give, 1: they are the same; null: too few samples. Absent in outputs of earlier versions. */
  stability: z.number().nullable().optional(),
  /** Mean of its layers' loss increase when skipped, nats per completion token. */
  lossIncrease: z.number(),
  role: z.enum(clusterRoles),
  /** In words, with the numbers. */
  label: z.string(),
})
export type LayerClusterOutput = z.infer<typeof layerClusterSchema>

/** Samples of a capability that the model's middle layer puts together, though no sub-capability says so. */
export const discoverySchema = z.object({
  /** Slug of the node it would be a part of: `code_generation` or `code_generation/sql`. */
  parent: z.string(),
  /** From the words that set its samples apart. */
  name: z.string(),
  words: z.array(z.string()),
  /** Prompts of the samples nearest to its centre, shortened. */
  examples: z.array(z.string()).min(1),
  /** First 16 hexadecimal digits of the SHA-256 of each member's prompt and completion: the same sample in every model and set. */
  samples: z.array(z.string()).min(1),
  silhouette: z.number(),
  /** Of its samples. `capability` is the slug of `parent`. */
  score: capabilityScoreSchema,
})
export type DiscoveryOutput = z.infer<typeof discoverySchema>

/** Top-level capabilities and how much each counts; weights are above 0 and need not sum to 1. */
export const mixtureSchema = z.object({
  name: z.string().min(1),
  weights: z.array(z.object({ capability: z.string(), weight: z.number().positive() })).min(1),
})
export type MixtureValue = z.infer<typeof mixtureSchema>

export const proposalSchema = z.object({
  /** Null: it is made for `mixture`. */
  capability: z.string().nullable(),
  mixture: mixtureSchema.optional(),
  name: z.string(),
  objective: z.string(),
  layers: z.array(layerRangeSchema.required({ reason: true })),
  /** By layer of the student the key/value heads that go; absent: none go. */
  groups: z.array(z.array(z.number().int().min(0))).optional(),
  /** What projections at and behind the cuts were fitted to before the student was judged; absent: they are the parent's. */
  calibration: calibrationSchema.optional(),
  parameterCount: z.number().int(),
  /** exp(-(student loss - parent loss)) on the validation split: of the built student where it was fitted, else with layers gated off and groups silenced. */
  quality: z.number(),
  qualityInterval: intervalSchema.optional(),
  /** Validation loss of student and parent, nats per completion token; of mixtures the weighted mean over their capabilities. */
  studentLoss: z.number(),
  parentLoss: z.number(),
  // Absent in outputs of earlier versions:
  /** Validation samples that the quality comes from. */
  validationSamples: z.number().int().optional(),
  /** All tensors of the student. */
  sizeBytes: z.number().int().optional(),
  /** Most tokens per second that one stream can be decoded at on the device that searched, by its measured roofline. */
  tokensPerSecond: z.number().positive().optional(),
  /** Device seconds that building it (fits) and measuring it beside its parent on the validation split take, at the speed seen here. */
  costSeconds: z.number().nonnegative().optional(),
})
export type ProposalOutput = z.infer<typeof proposalSchema>

export const generateInputSchema = z.object({
  manifest: hashSchema,
  prompt: z.string().optional(),
  messages: z.array(chatMessageSchema).optional(),
  maxTokens: z.number().int().min(1).max(131072),
  temperature: z.number().min(0).max(10),
  topP: z.number().gt(0).max(1).optional(),
  topK: z.number().int().min(1).optional(),
  minP: z.number().min(0).max(1).optional(),
  repetitionPenalty: z.number().min(0.1).max(10).optional(),
  seed: z.number().int().optional(),
  stop: z.array(z.string().min(1)).max(16).optional(),
  /** Log-probabilities of every token made, and of this many of the likeliest in its place. */
  logProbabilities: z.number().int().min(0).max(20).optional(),
})

const tokenLogProbability = { id: z.number().int(), text: z.string(), logProbability: z.number() }
/** A token made: natural logarithm of the probability that the model gave it, and the likeliest ones in its place. */
export const tokenRecordSchema = z.object({ ...tokenLogProbability, top: z.array(z.object(tokenLogProbability)) })
export type TokenRecordOutput = z.infer<typeof tokenRecordSchema>

const evaluationInput = {
  manifest: hashSchema,
  /** Payload: JSONL of {task, subtask, split, prompt, completion}. */
  probeSet: hashSchema,
  /** At most this many samples per capability, taken evenly over its sub-capabilities in file order; absent: all. */
  samplesPerCapability: z.number().int().min(1).optional(),
  /** Prompt and completion are joined and cut to this many tokens. */
  maxTokens: z.number().int().min(2).default(256),
}

const comparisonFigures = {
  /** Mean KL(before || after) over all positions, nats. */
  divergence: z.number(),
  /** Share of positions whose likeliest token is the same. */
  agreement: z.number(),
  positions: z.number().int(),
  /** Nats per completion token, after and before. */
  loss: z.number(),
  referenceLoss: z.number(),
  perplexity: z.number(),
  referencePerplexity: z.number(),
}
export const capabilityComparisonSchema = z.object({ capability: z.string(), ...comparisonFigures })
export type CapabilityComparison = z.infer<typeof capabilityComparisonSchema>

/** A model against the one it was made of, on the validation split. */
export const modelComparisonSchema = z.object({
  ...comparisonFigures,
  capabilities: z.array(capabilityComparisonSchema),
  sizeBytes: z.number().int(),
  referenceSizeBytes: z.number().int(),
  /** Greedy decoding, after on kernels that read its blocks, before in float32. */
  tokensPerSecond: z.number().optional(),
  referenceTokensPerSecond: z.number().optional(),
})
export type ModelComparison = z.infer<typeof modelComparisonSchema>

/** Types that an export can bring all matrices into; the names are ggml's. */
export const exportQuantizations = ['F32', 'F16', 'BF16', 'Q8_0', 'Q4_0', 'Q4_1'] as const
export type ExportQuantization = (typeof exportQuantizations)[number]

/** `device`: one at a time per device. `interactive`: the device's serving process, several at once. `io`: bytes only, no device. */
export type Lane = 'device' | 'interactive' | 'io'

const defineJob = <I extends z.ZodType, O extends z.ZodType>(job: {
  lane: Lane
  /** The lane of one job, where that depends on what it is asked for; absent: `lane`. */
  laneOf?: (input: z.output<I>) => Lane
  exclusive?: boolean
  input: I
  output: O
}) => job

export const jobTypes = {
  'model.ingest': defineJob({
    lane: 'io',
    input: z.object({
      source: z.string().min(1),
      revision: z.string().optional(),
    }),
    output: z.object({
      manifest: hashSchema,
      /** Bytes of all tensors, and of those whose payloads were new to the store (absent in outputs of earlier versions). */
      tensorBytes: z.number().int(),
      newTensorBytes: z.number().int().optional(),
      bytesRead: z.number().int(),
      /** New to the store, headers, tokenizer and manifest included. */
      bytesWritten: z.number().int(),
      tensors: z.number().int(),
      seconds: z.number(),
    }),
  }),
  'model.export': defineJob({
    lane: 'io',
    input: z.object({
      manifest: hashSchema,
      name: z.string(),
      format: z.enum(['SAFETENSORS', 'GGUF', 'ONNX', 'PEFT']),
      /**
       * Type of all matrices; absent: as they are stored, as far as the format can say it. PARENT: the float type that most weights of the model
       * have that it descends from.
       */
      quantization: z.enum([...exportQuantizations, 'PARENT']).optional(),
      /** For the model card, filled in when the job is claimed; absent: no card is written. */
      facts: modelFactsSchema.optional(),
    }),
    output: z.object({
      /** `path` is relative to the exports folder: `<job id>/<file>`. */
      files: z.array(
        z.object({
          path: z.string(),
          sizeBytes: z.number().int(),
          sha256: hashSchema,
          /** Added by the control plane: where to download it. */
          url: z.string().optional(),
        }),
      ),
      /** Sentences on what the files hold otherwise than the model is stored: blocks written out as plain numbers, for example. */
      notes: z.array(z.string()).optional(),
    }),
  }),
  'model.quantize': defineJob({
    lane: 'device',
    input: z.object({
      manifest: hashSchema,
      options: quantizationSchema,
      /** Payload: texts to calibrate with (probe split) and to compare on (validation split). */
      probeSet: hashSchema,
      samplesPerCapability: z.number().int().min(1).optional(),
      maxTokens: z.number().int().min(2).default(256),
    }),
    output: z.object({
      manifest: hashSchema,
      /** What was quantised: the model, or the full-precision one that it had been made of. */
      source: hashSchema,
      /** Number of tensors by type. */
      types: z.record(z.string(), z.number().int()),
      /** Names of matrices that stayed as they were: no block size divides their rows. */
      kept: z.array(z.string()),
      seconds: z.number(),
      comparison: modelComparisonSchema,
      /** Where a budget was given: how far each group of matrices moves predictions, and what was chosen. */
      search: z
        .object({
          groups: z.number().int(),
          tokens: z.number().int(),
          /** Nats per token: of the sum over the groups, and of the whole as it was made. */
          predictedDivergence: z.number(),
          measuredDivergence: z.number(),
          bytes: z.number(),
          choices: z.record(z.string(), z.number().int()),
          mostSensitive: z.array(z.object({ group: z.string(), divergence: z.number() })),
        })
        .optional(),
    }),
  }),
  'model.fuse': defineJob({
    lane: 'device',
    input: z.object({
      manifest: hashSchema,
      options: fusionSchema,
      /** Payload: samples that outputs are compared on (validation split). */
      probeSet: hashSchema,
    }),
    output: z.object({
      /** The source's own where nothing was applied. */
      manifest: hashSchema,
      source: hashSchema,
      applied: z.array(z.enum(fusions)),
      rows: z.array(fusionRowSchema),
      /** Of what was applied, or was to be. */
      check: fusionCheckSchema.optional(),
      seconds: z.number(),
    }),
  }),
  'model.generate': defineJob({
    lane: 'interactive',
    input: generateInputSchema,
    output: z.object({
      text: z.string(),
      tokenIds: z.array(z.number().int()),
      finishReason: z.enum(['STOP', 'LENGTH', 'CANCELLED']),
      promptTokens: z.number().int(),
      completionTokens: z.number().int(),
      /** Decoding speed, prefill not counted. */
      tokensPerSecond: z.number().nullable(),
      /** Of the prompt, not read again since a sequence before began with them. Absent in outputs of earlier versions. */
      reusedTokens: z.number().int().optional(),
      /** Of every token, where they were asked for. */
      logProbabilities: z.array(tokenRecordSchema).optional(),
    }),
  }),
  'model.evaluate': defineJob({
    lane: 'device',
    /** Scores of one model on one split, and of a reference model (a student's parent) where one is named. */
    input: z.object({
      ...evaluationInput,
      split: z.enum(['probe', 'validation']),
      /** Top-level capability slugs to score; absent: all of the probe set. */
      capabilities: z.array(z.string()).min(1).optional(),
      reference: hashSchema.optional(),
    }),
    output: z.object({ scores: z.array(capabilityScoreSchema), reference: z.array(capabilityScoreSchema).optional() }),
  }),
  'capability.analyze': defineJob({
    lane: 'device',
    input: z.object({
      ...evaluationInput,
      /** How many key/value groups, those of the least importance, have their loss measured without them; absent: 4. */
      maskedGroups: z.number().int().min(0).max(256).optional(),
      /** Of the clusterings; absent: 0. */
      seed: z.number().int().optional(),
    }),
    output: z.object({
      baseline: z.array(capabilityScoreSchema),
      layers: z.array(layerAnalysisSchema),
      heads: z.array(headImportanceSchema).optional(),
      /** Scores of sub-capabilities; `capability` is `code_generation/sql`. Absent in outputs of earlier versions, as all that follows. */
      subcapabilities: z.array(capabilityScoreSchema).optional(),
      groups: z.array(maskedGroupSchema).optional(),
      clusters: z.array(layerClusterSchema).optional(),
      discoveries: z.array(discoverySchema).optional(),
      /** Payload: SafeTensors, per capability a tensor of its slug, [layers, hidden]: mean output of each layer over its samples. */
      centroids: hashSchema.optional(),
      /** Samples whose completion was cut away whole, by capability; they count nowhere. */
      dropped: z.array(z.object({ capability: z.string(), count: z.number().int() })).optional(),
    }),
  }),
  'students.propose': defineJob({
    lane: 'device',
    input: z.object({
      ...evaluationInput,
      modelName: z.string(),
      /** Capability slugs to propose for, each by itself; absent: all of the probe set. */
      capabilities: z.array(z.string()).optional(),
      /** What else to propose for: several capabilities at once. */
      mixtures: z.array(mixtureSchema).optional(),
      maximumParameters: z.number().int().positive().optional(),
      /**
       * Seconds of device time that searching and measuring may take, all capabilities and mixtures together: a wide search whose Pareto set of size
       * and quality is proposed. Absent: a short greedy search, two or three sizes.
       */
      budgetSeconds: z.number().positive().optional(),
      /** The same in tokens run through the whole model; what earlier searches measured is free. The smaller of both counts. */
      budgetTokens: z.number().positive().optional(),
      /** Whether projections at the cuts of what is proposed are fitted first; half of a budget is for that, and what it does not afford stays as it is. */
      correctCuts: z.boolean().optional(),
      /** The analysis the search starts from (probe split). */
      layers: z.array(layerAnalysisSchema),
      /** What it says of heads: which key/value groups are tried first. Absent: it did not measure them. */
      heads: z.array(headImportanceSchema).optional(),
    }),
    output: z.object({ proposals: z.array(proposalSchema) }),
  }),
  'student.build': defineJob({
    lane: 'io',
    /** Layers alone are a manifest of milliseconds; whatever runs a model waits for its device. */
    laneOf: ({ stages }) => (stages && needsDevice(stages) ? 'device' : 'io'),
    input: z.object({
      parent: hashSchema,
      layers: z.array(buildLayerRangeSchema).min(1),
      /** What is done to the layers once they are put together; absent: nothing. */
      stages: buildStagesSchema.optional(),
    }),
    output: z.object({
      manifest: hashSchema,
      parameterCount: z.number().int(),
      layerCount: z.number().int(),
      /** What was done, in order. Absent in outputs of earlier versions. */
      stages: z.array(stageResultSchema).optional(),
    }),
  }),
  'probes.import': defineJob({
    lane: 'io',
    input: z.object({ source: z.string().min(1) }),
    output: z.object({
      probeSet: hashSchema,
      sampleCount: z.number().int(),
      capabilities: z.array(
        z.object({
          capability: z.string(),
          subtask: z.string(),
          probe: z.number().int(),
          validation: z.number().int(),
        }),
      ),
    }),
  }),
  'storage.verify': defineJob({
    lane: 'io',
    /** What must be there, filled in when the job is claimed: manifests of living models and loose payloads (probe sets). */
    input: z.object({ manifests: z.array(hashSchema).optional(), payloads: z.array(hashSchema).optional() }),
    output: z.object({
      payloads: z.number().int(),
      bytes: z.number().int(),
      /** Payloads with other bytes than their hash says; they were set aside, so that ingesting the source again repairs them. */
      corrupt: z.array(hashSchema),
      /** Payloads that a living model or probe set needs and that were not there. */
      missing: z.array(hashSchema).default([]),
      /** Which parts of which models these are, the first 100. */
      affected: z
        .array(
          z.object({
            hash: hashSchema,
            manifest: hashSchema.optional(),
            /** `tensor x`, `tokenizer`, `manifest`, … */
            part: z.string(),
            /** Names of the models with this manifest, added by the control plane. */
            models: z.array(z.string()).optional(),
          }),
        )
        .max(100)
        .default([]),
    }),
  }),
  'storage.collect': defineJob({
    lane: 'io',
    /** Never runs beside another job, so that it cannot remove what a running job uses. */
    exclusive: true,
    /** What is alive, filled in when the job is claimed. */
    input: z.object({
      manifests: z.array(hashSchema).default([]),
      /** Loose payloads: probe sets. */
      payloads: z.array(hashSchema).default([]),
      /** Ids of the export jobs whose files are kept; absent: all. */
      exports: z.array(z.string()).optional(),
      /** Inputs of the builds that may go on: what their finished stages made is kept. */
      builds: z.array(z.unknown()).optional(),
      /** Ids of the searches for students that wait or go on: where they began is kept; absent: all. */
      searches: z.array(z.string()).optional(),
    }),
    output: z.object({
      /** Payloads. */
      removed: z.number().int(),
      /** Of payloads and exports. */
      bytes: z.number().int(),
      exports: z.number().int().default(0),
    }),
  }),
} as const

export type JobName = keyof typeof jobTypes
export type JobInput<K extends JobName> = z.output<(typeof jobTypes)[K]['input']>
export type JobOutput<K extends JobName> = z.output<(typeof jobTypes)[K]['output']>
export const jobNames = Object.keys(jobTypes) as JobName[]

/** The lane a job of this input runs in. */
export function laneOf<K extends JobName>(type: K, input: JobInput<K>): Lane {
  const { lane, laneOf: own } = jobTypes[type] as { lane: Lane; laneOf?: (input: JobInput<K>) => Lane }
  return own?.(input) ?? lane
}
