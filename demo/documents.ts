// Every GraphQL operation the demo sends; a test validates them against the composed schema.
const started = 'job { id } userErrors { field message code }'

export const demoDocuments = {
  ingestModel: `mutation($input: IngestModelInput!) { ingestModel(input: $input) { ${started} } }`,
  importProbeDataset: `mutation($input: ImportProbeDatasetInput!) { importProbeDataset(input: $input) { ${started} } }`,
  analyzeModel: `mutation($input: AnalyzeModelInput!) { analyzeModel(input: $input) { ${started} } }`,
  proposeStudents: `mutation($input: ProposeStudentsInput!) { proposeStudents(input: $input) { ${started} } }`,
  approveRecipe: `mutation($input: ApproveRecipeInput!) { approveRecipe(input: $input) { recipe { status } userErrors { field message code } } }`,
  buildStudent: `mutation($input: BuildStudentInput!) { buildStudent(input: $input) { ${started} } }`,
  distillStudent: `mutation($input: DistillStudentInput!) { distillStudent(input: $input) { recipe { id } ${started} } }`,
  generate: `mutation($input: GenerateInput!) { generate(input: $input) { text userErrors { field message code } } }`,
  model: `query($id: ID!) {
    model(id: $id) { id name architecture layerCount parameterCount sizeBytes uniqueBytes tensors(first: 1) { totalCount } }
  }`,
  probeDatasets: `{ probeDatasets { id name } }`,
  analysis: `query($id: ID!, $probeDatasetId: ID) {
    model(id: $id) { analysis(probeDatasetId: $probeDatasetId) {
      baseline { capability { slug name } loss accuracy }
      layers { layerIndex capabilities { capability { slug } score lossIncrease } }
    } }
  }`,
  recipes: `query($parentModelId: ID!) {
    recipes(parentModelId: $parentModelId, first: 100) {
      nodes { id name estimatedParameterCount estimatedQuality capability { slug name } layers { from to reason } }
    }
  }`,
  recipe: `query($id: ID!) {
    recipe(id: $id) { measuredQuality student { id name architecture layerCount parameterCount sizeBytes uniqueBytes tensors(first: 1) { totalCount } } }
  }`,
  evaluateModel: `mutation($input: EvaluateModelInput!) { evaluateModel(input: $input) { ${started} } }`,
  scores: `query($id: ID!) { model(id: $id) { evaluations(first: 100) { nodes { split loss accuracy createdAt capability { slug } } } } }`,
  jobs: `{ jobs(first: 20) { nodes { id type } } }`,
} as const
