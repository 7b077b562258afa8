// The shapes of the answers to cli/documents.ts, as far as the CLI reads them.

export interface ModelSummary {
  id: string
  name: string
  version: string | null
  architecture: string
  parameterCount: number
  layerCount: number
  sizeBytes: number
  uniqueBytes: number
  isStudent: boolean
  createdAt: string
}

export interface Score {
  capability: { slug: string; name: string }
  loss: number
  perplexity: number
  accuracy: number | null
  sampleCount: number
  /** Of the loss, at 95 %. */
  interval: [number, number] | null
}

export interface Analysis {
  id: string
  model: { vocabularySize: number | null }
  probeDataset: { name: string; version: number }
  /** Id of the device that measured it. */
  device: string | null
  baseline: Score[]
  layers: {
    layerIndex: number
    blockInfluence: number
    activationNorm: number
    activation: { rms: number; maximum: number; kurtosis: number } | null
    capabilities: { capability: { slug: string }; score: number; lossIncrease: number }[]
    /** Mean over the capabilities. */
    heads: { headIndex: number; keyValueHeadIndex: number; importance: number; attentionEntropy: number | null }[]
  }[]
  clusters: { capability: { slug: string }; layers: number[]; role: string; label: string; stability: number | null }[]
  maskedGroups: {
    layerIndex: number
    keyValueHeadIndex: number
    importance: number
    lossIncrease: number
    capability: { slug: string }
  }[]
  droppedSamples: { capability: { slug: string }; count: number }[]
}

export interface CapabilitySummary {
  id: string
  slug: string
  name: string
  level: number
  status: string
  description: string | null
  examples: string[]
  probeSampleCount: number
  discoveredIn: { id: string; name: string } | null
  mergedInto: { slug: string } | null
}

export interface ModelDetail extends ModelSummary {
  dtype: string
  quantization: string | null
  attentionHeadCount: number | null
  keyValueHeadCount: number | null
  hiddenSize: number | null
  intermediateSize: number | null
  vocabularySize: number | null
  contextLength: number | null
  license: string | null
  source: string | null
  manifestHash: string
  objective: string | null
  parent: { id: string; name: string; dtype: string; quantization: string | null } | null
  students: { nodes: { id: string; name: string }[]; totalCount: number }
  tensors: { totalCount: number }
  history: { kind: string; description: string; createdAt: string }[]
  capabilityScores: Score[]
  analysis: Analysis | null
  recipes: { nodes: { estimatedQuality: number | null; measuredQuality: number | null }[] }
}

export interface RecipeSummary {
  id: string
  name: string
  status: string
  objective: string
  estimatedParameterCount: number
  estimatedQuality: number | null
  /** At 95 %. */
  estimatedQualityInterval: [number, number] | null
  measuredQuality: number | null
  /** DCUs. */
  estimatedCost: number | null
  measuredCost: number | null
  capability: { slug: string } | null
  mixture: { name: string } | null
  layers: { from: number; to: number; reason: string | null; model: { name: string } | null }[]
  headPruning: { unit: string; metric: string; removePerLayer: number[] } | null
  feedForwardPruning: { metric: string; keepPerLayer: number[] } | null
  quantization: { type: string; symmetric: boolean; blockSize: number; method: string; head: string } | null
  fusion: { threshold: number; together: boolean } | null
  parentModel: { id: string; name: string }
  /** What a measured quality of 1 stands for; null: a teacher that is deleted. */
  measuredAgainst: { id: string; name: string } | null
  student: { id: string; name: string } | null
  createdAt: string
}

export interface RecipeDecision {
  outcome: string
  reason: string
  policyVersion: number | null
  createdAt: string
}

/** What `recipe` asks for besides. */
export interface RecipeDetail extends RecipeSummary {
  yaml: string
  estimatedSizeBytes: number | null
  measuredSizeBytes: number | null
  estimatedTokensPerSecond: number | null
  measuredTokensPerSecond: number | null
  validationSamples: number | null
  decisions: RecipeDecision[]
}

export interface JobSummary {
  id: string
  type: string
  state: string
  attempts: number
  createdAt: string
  durationMs: number | null
  /** DCUs. */
  cost: number
  flops: number
  error: { code: string; message: string } | null
  progress: { stage: string; completed: number; total: number | null; unit: string } | null
  model: { name: string } | null
}

export interface BuildStage {
  stage: string
  seconds: number
  reused: boolean
  measurements: Record<string, unknown> | null
}

export interface ComparisonFigures {
  divergence: number
  agreement: number
  perplexity: number
  referencePerplexity: number
}
/** What a search for codes within a budget measured and chose. */
export interface SchemeSearch {
  choices: Record<string, number>
  predictedDivergence: number
  measuredDivergence: number
  mostSensitive: { group: string; divergence: number }[]
}

/** One fusion in one mode, as the job's output and a build's stage say it. */
export interface FusionRow {
  fusion: string
  mode: string
  sites: number
  state: string
  speedup?: number
  lower?: number
  upper?: number
  milliseconds?: number
  reason?: string
}
export interface FusionResult {
  applied: string[]
  rows: FusionRow[]
  check?: { positions: number; largestDeviation: number; agreement: number }
}

/** What quantising changed, as the job's output says it. */
export interface Comparison extends ComparisonFigures {
  capabilities: (ComparisonFigures & { capability: string })[]
  sizeBytes: number
  referenceSizeBytes: number
  tokensPerSecond?: number
  referenceTokensPerSecond?: number
}
