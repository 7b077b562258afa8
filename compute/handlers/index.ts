// Which handler runs which job: total over the job types. Imported when first needed, so that the io worker never loads ONNX Runtime.
import type { JobName } from '../pool/job-types.js'
import type { Handler } from './handler.js'

export const handlers: Partial<{ [K in JobName]: () => Promise<Handler<K>> }> = {
  'student.build': async () => (await import('./build-student.js')).buildStudent,
}
