// Every GraphQL operation the CLI sends; a test validates them against the composed schema.
const recipeFields =
  'id name status objective estimatedParameterCount estimatedQuality estimatedQualityInterval measuredQuality estimatedCost measuredCost capability { slug } mixture { name } layers { from to reason model { name } } headPruning { unit metric removePerLayer } feedForwardPruning { metric keepPerLayer } quantization { type symmetric blockSize method embeddings head } fusion { threshold together } parentModel { id name } measuredAgainst { id name } student { id name } createdAt'
const capabilityFields =
  'id slug name level status description examples probeSampleCount discoveredIn { id name } mergedInto { slug }'
const policyFields =
  'version enabled minimumQuality maximumParameters capabilities maximumCostSeconds analyzeOnIngest samplesPerCapability proposeOnAnalysis budgetSeconds buildOnApproval updatedAt'
const modelFields = 'id name version architecture parameterCount layerCount sizeBytes uniqueBytes isStudent createdAt'

export const documents = {
  models: `query Models($nameContains: String, $after: String) {
    models(nameContains: $nameContains, first: 100, after: $after) { nodes { ${modelFields} } pageInfo { hasNextPage endCursor } totalCount }
  }`,
  model: `query Model($id: ID!) {
    model(id: $id) {
      ${modelFields} dtype quantization attentionHeadCount keyValueHeadCount hiddenSize intermediateSize vocabularySize contextLength
      license source manifestHash objective parent { id name dtype quantization } students(first: 20) { nodes { id name } totalCount }
      tensors(first: 1) { totalCount }
      history { kind description createdAt }
      capabilityScores { capability { slug name } loss perplexity accuracy sampleCount interval }
      analysis { ...Analysis }
      recipes(first: 100) { nodes { estimatedQuality measuredQuality } }
    }
  }
  ${analysisFragment()}`,
  analysisOfJob: `query AnalysisOfJob($id: ID!) { job(id: $id) { model { id } analysis { ...Analysis } } }
  ${analysisFragment()}`,
  dependents: `query Dependents($id: ID!) {
    model(id: $id) { recipe { name } students(first: 10) { nodes { name } totalCount } recipes(first: 100) { nodes { name status } totalCount } }
  }`,
  parent: `query Parent($id: ID!) { model(id: $id) { parent { name } } }`,
  chatTemplate: `query ChatTemplate($id: ID!) { model(id: $id) { chatTemplate } }`,
  ingestModel: `mutation Ingest($input: IngestModelInput!) { ingestModel(input: $input) { job { id } userErrors { field message code } } }`,
  deleteModel: `mutation Delete($input: DeleteModelInput!) { deleteModel(input: $input) { model { id name } userErrors { field message code } } }`,
  quantizeModel: `mutation Quantize($input: QuantizeModelInput!) { quantizeModel(input: $input) { job { id } userErrors { field message code } } }`,
  fuseLayers: `mutation Fuse($input: FuseLayersInput!) { fuseLayers(input: $input) { job { id } userErrors { field message code } } }`,
  unfuseModel: `mutation Unfuse($input: UnfuseModelInput!) { unfuseModel(input: $input) { model { id name } userErrors { field message code } } }`,
  exportModel: `mutation Export($input: ExportModelInput!) { exportModel(input: $input) { job { id } userErrors { field message code } } }`,
  analyzeModel: `mutation Analyze($input: AnalyzeModelInput!) { analyzeModel(input: $input) { job { id } userErrors { field message code } } }`,
  probeDatasets: `query ProbeDatasets { probeDatasets { id name version sampleCount } }`,
  importProbeDataset: `mutation ImportProbes($input: ImportProbeDatasetInput!) { importProbeDataset(input: $input) { job { id } userErrors { field message code } } }`,
  capabilities: `query Capabilities($level: Int, $status: CapabilityStatus) { capabilities(level: $level, status: $status) { ${capabilityFields} } }`,
  renameCapability: `mutation RenameCapability($input: RenameCapabilityInput!) { renameCapability(input: $input) { capability { ${capabilityFields} } userErrors { field message code } } }`,
  mergeCapability: `mutation MergeCapability($input: MergeCapabilityInput!) { mergeCapability(input: $input) { capability { ${capabilityFields} } userErrors { field message code } } }`,
  dismissCapability: `mutation DismissCapability($input: DismissCapabilityInput!) { dismissCapability(input: $input) { capability { ${capabilityFields} } userErrors { field message code } } }`,
  proposeStudents: `mutation Propose($input: ProposeStudentsInput!) { proposeStudents(input: $input) { job { id } userErrors { field message code } } }`,
  recipes: `query Recipes($parentModelId: ID, $status: RecipeStatus, $after: String) {
    recipes(parentModelId: $parentModelId, status: $status, first: 100, after: $after) { nodes { ${recipeFields} } pageInfo { hasNextPage endCursor } }
  }`,
  recipe: `query Recipe($id: ID!) { recipe(id: $id) { ${recipeFields} yaml estimatedSizeBytes measuredSizeBytes estimatedTokensPerSecond measuredTokensPerSecond validationSamples decisions { outcome reason person policyVersion createdAt } } }`,
  policy: `query Policy { approvalPolicy { ${policyFields} } }`,
  setPolicy: `mutation SetPolicy($input: SetApprovalPolicyInput!) { setApprovalPolicy(input: $input) { policy { ${policyFields} } userErrors { field message code } } }`,
  createRecipe: `mutation CreateRecipe($input: CreateRecipeInput!) { createRecipe(input: $input) { recipe { ${recipeFields} } userErrors { field message code } } }`,
  approveRecipe: `mutation Approve($input: ApproveRecipeInput!) { approveRecipe(input: $input) { recipe { id name status } userErrors { field message code } } }`,
  rejectRecipe: `mutation Reject($input: RejectRecipeInput!) { rejectRecipe(input: $input) { recipe { id name status } userErrors { field message code } } }`,
  distillStudent: `mutation DistillStudent($input: DistillStudentInput!) { distillStudent(input: $input) { recipe { id healing { tokens learningRate crossEntropy } } job { id } userErrors { field message code } } }`,
  pruneHeads: `mutation PruneHeads($input: PruneHeadsInput!) { pruneHeads(input: $input) { recipe { id } job { id } userErrors { field message code } } }`,
  recipeOfJob: `query RecipeOfJob($id: ID!) { job(id: $id) { recipe { id } } }`,
  proposals: `query Proposals($id: ID!) { job(id: $id) { recipes { ${recipeFields} } } }`,
  stages: `query Stages($id: ID!) { job(id: $id) { stages { stage seconds reused measurements } } }`,
  buildStudent: `mutation Build($input: BuildStudentInput!) { buildStudent(input: $input) { job { id } userErrors { field message code } } }`,
  generateStream: `subscription Generate($input: GenerateInput!) {
    generateStream(input: $input) {
      textDelta finishReason usage { promptTokens completionTokens tokensPerSecond reusedPromptTokens }
      tokens { token text logProbability alternatives { token text logProbability } }
    }
  }`,
  jobs: `query Jobs($states: [JobState!], $types: [JobType!], $modelId: ID, $first: Int) {
    jobs(states: $states, types: $types, modelId: $modelId, first: $first) { nodes { id type state attempts createdAt durationMs cost flops error { code message } progress { stage completed total unit } model { name } } }
  }`,
  jobIds: `query JobIds($after: String) { jobs(first: 100, after: $after) { nodes { id } pageInfo { hasNextPage endCursor } } }`,
  jobType: `query JobType($id: ID!) { job(id: $id) { type } }`,
  cancelJob: `mutation Cancel($input: CancelJobInput!) { cancelJob(input: $input) { job { id state } userErrors { field message code } } }`,
  retryJob: `mutation Retry($input: RetryJobInput!) { retryJob(input: $input) { job { id state } userErrors { field message code } } }`,
  verifyStorage: `mutation Verify { verifyStorage(input: {}) { job { id } userErrors { field message code } } }`,
  collectGarbage: `mutation Collect { collectGarbage(input: {}) { job { id } userErrors { field message code } } }`,
  devices: `query Devices { devices(offered: true) { id name kind memoryBytes chosen busy problem worker job { id type } } }`,
  storage: `query Storage { storage { modelCount payloadCount storedBytes logicalBytes savedBytes deduplicationRatio } }`,
} as const

function analysisFragment() {
  return `fragment Analysis on CapabilityAnalysis {
    id probeDataset { name version }
    device
    model { vocabularySize }
    baseline { capability { slug name } loss perplexity accuracy sampleCount interval }
    layers { layerIndex blockInfluence activationNorm activation { rms maximum kurtosis } capabilities { capability { slug } score lossIncrease } heads { headIndex keyValueHeadIndex importance attentionEntropy } }
    clusters { capability { slug } layers role label stability }
    maskedGroups { layerIndex keyValueHeadIndex importance lossIncrease capability { slug } }
    droppedSamples { count capability { slug } }
  }`
}
