// Which handler runs which job: total over the job types. Imported when first needed, so that the io worker never loads ONNX Runtime.
import type { JobName } from '../pool/job-types.js'
import type { Handler } from './handler.js'

export const handlers: { [K in JobName]: () => Promise<Handler<K>> } = {
  'model.ingest': async () => (await import('./ingest-model.js')).ingestModel,
  'model.export': async () => (await import('./export-model.js')).exportModel,
  'model.quantize': async () => (await import('./quantize-model.js')).quantizeModel,
  'model.fuse': async () => (await import('./fuse-model.js')).fuseModel,
  'model.generate': async () => (await import('./generate-text.js')).generateText,
  'model.evaluate': async () => (await import('./evaluate-model.js')).evaluateModel,
  'capability.analyze': async () => (await import('./analyze-capabilities.js')).analyzeCapabilities,
  'students.propose': async () => (await import('./propose-students.js')).proposeStudents,
  'student.build': async () => (await import('./build-student.js')).buildStudent,
  'probes.import': async () => (await import('./import-probes.js')).importProbes,
  'storage.verify': async () => (await import('./verify-storage.js')).verifyStorage,
  'storage.collect': async () => (await import('./collect-garbage.js')).collectGarbage,
}
