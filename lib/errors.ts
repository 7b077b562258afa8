// The one error table: every code a caller can meet, its HTTP meaning and its sentence. docs/errors.md is generated from it.

export const errorTable = {
  // input and access
  BAD_USER_INPUT: { http: 400, sentence: 'An argument has the wrong type, is out of range or contradicts another.' },
  NOT_FOUND: { http: 404, sentence: 'Nothing with this id exists (any more).' },
  IDEMPOTENCY_CONFLICT: { http: 409, sentence: 'This idempotency key was used before with another input.' },
  CONFLICT: { http: 409, sentence: 'The thing is in a state that does not allow this change.' },
  INVALID_CURSOR: { http: 400, sentence: 'The cursor does not come from this list.' },
  // operations
  GRAPHQL_PARSE_FAILED: { http: 400, sentence: 'The operation is not valid GraphQL.' },
  GRAPHQL_VALIDATION_FAILED: { http: 400, sentence: 'The operation does not fit the schema.' },
  OPERATION_TOO_LARGE: { http: 400, sentence: 'The operation has more tokens, aliases or levels than allowed.' },
  OPERATION_TOO_EXPENSIVE: { http: 400, sentence: 'The operation could return more objects than allowed.' },
  TOO_MANY_SUBSCRIPTIONS: { http: 429, sentence: 'This connection has too many open subscriptions.' },
  BAD_REQUEST: { http: 400, sentence: 'The request is not a GraphQL request.' },
  SHUTTING_DOWN: { http: 503, sentence: 'The server is stopping; try again in a moment.' },
  SUBSCRIBER_TOO_SLOW: { http: 429, sentence: 'Events came faster than the client read them; subscribe again.' },
  FORBIDDEN_ORIGIN: { http: 403, sentence: 'Pages of other sites may not use this server.' },
  SUBGRAPH_UNAVAILABLE: { http: 502, sentence: 'A part of the platform did not answer.' },
  INTERNAL_SERVER_ERROR: { http: 500, sentence: 'A bug on our side; the details are in the server log.' },
  // sources and formats
  SOURCE_NOT_FOUND: { http: 404, sentence: 'The source does not exist or cannot be read.' },
  SOURCE_REFUSED: { http: 403, sentence: 'The source is not allowed (scheme, private address or size).' },
  SOURCE_INTERRUPTED: { http: 502, sentence: 'The source stopped before all bytes had come.' },
  INVALID_MODEL_FILE: { http: 422, sentence: 'The file is corrupt or not what its name says.' },
  UNSUPPORTED_FORMAT: { http: 422, sentence: 'The file is in a format or tensor type that is not read here.' },
  UNSUPPORTED_ARCHITECTURE: { http: 422, sentence: 'This operation does not know the model’s architecture.' },
  MISSING_TENSOR: { http: 422, sentence: 'The model lacks a tensor that its architecture needs.' },
  SHAPE_MISMATCH: { http: 422, sentence: 'A tensor’s shape does not fit the model’s dimensions.' },
  NO_TOKENIZER: { http: 422, sentence: 'The model came without a tokenizer that is read here.' },
  CONTEXT_LENGTH_EXCEEDED: { http: 422, sentence: 'Prompt and answer are longer than the model’s context.' },
  INVALID_PROBE_DATASET: { http: 422, sentence: 'The probe set is empty or a line of it is malformed.' },
  INVALID_RECIPE: { http: 422, sentence: 'The recipe cannot be built as written.' },
  VOCABULARY_MISMATCH: { http: 422, sentence: 'Teacher and student do not have the same tokens.' },
  NOT_IMPROVED: {
    http: 422,
    sentence: 'Training did not make the model better on held-out samples; nothing was kept.',
  },
  NOT_A_NUMBER: { http: 422, sentence: 'A tensor or a result holds NaN or infinity.' },
  // jobs and storage
  WORKER_LOST: { http: 503, sentence: 'The worker process ended while it ran the job.' },
  DEVICE_UNAVAILABLE: { http: 503, sentence: 'A device that was asked for is not in this machine or does not start.' },
  DEVICE_LOST: { http: 503, sentence: 'The device stopped computing while it ran the job.' },
  TOO_MANY_ATTEMPTS: { http: 500, sentence: 'The job was tried as often as allowed and never finished.' },
  CANCELLED: { http: 409, sentence: 'The job was cancelled.' },
  DISK_FULL: { http: 507, sentence: 'No space is left on the device that holds the payloads.' },
  PAYLOAD_MISSING: { http: 500, sentence: 'A payload that a manifest names is not in the store.' },
  PAYLOAD_CORRUPT: { http: 500, sentence: 'A payload’s bytes do not have the hash it is stored under.' },
  DATA_FOLDER_IN_USE: { http: 409, sentence: 'Another platform process uses this data folder.' },
} as const satisfies Record<string, { http: number; sentence: string }>

export type ErrorCode = keyof typeof errorTable

/** An expected failure: what a caller sees as `userErrors`, and what a failed job reports. */
export class DomainError extends Error {
  override readonly name: string = 'DomainError'
  /**
   * @param field path of the input field at fault, e.g. `['input', 'layers']`
   * @param retryable whether the same attempt may succeed later (worker lost, connection reset); jobs are retried only then
   */
  constructor(
    readonly code: ErrorCode,
    message: string,
    readonly options: { field?: string[]; retryable?: boolean; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause })
  }
  get field() {
    return this.options.field
  }
  get retryable() {
    return this.options.retryable ?? false
  }
  /** What graphql-js puts into the error a client sees, where this is thrown by a resolver. */
  get extensions() {
    return this.field ? { code: this.code, field: this.field } : { code: this.code }
  }
}

export const isDomainError = (error: unknown): error is DomainError => error instanceof DomainError
