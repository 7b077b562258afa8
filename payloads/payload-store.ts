// The content-addressed store as everyone sees it: put, get, open a range, by SHA-256.

export interface PutResult {
  hash: string
  bytes: number
  /** False where the payload was there already: nothing was written. */
  written: boolean
}

export interface FileRanges {
  /** It stays open until the put resolves. */
  file: { readonly fd: number }
  /** What error messages call it. */
  name: string
  /** In bytes. */
  ranges: readonly { offset: number; bytes: number }[]
  /** Stops this put; the batch goes on. */
  signal?: AbortSignal
  /** Called as bytes are done; in the end they are all. */
  onBytes(bytes: number): void
}

/** Payloads that appear in the store together: staged and synced as they come, renamed into place by `commit`. */
export interface PayloadBatch {
  put(chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<PutResult>
  /** A payload held in memory. The bytes must not change until this resolves. */
  putBytes(bytes: Uint8Array): Promise<PutResult>
  /** Ranges of an open file, results in their order: the fastest way for many or large ones, since other threads hash and write. */
  putRanges(ranges: FileRanges): Promise<PutResult[]>
  /** Durable on return: files and folders are synced. On an error nothing of the batch is left. */
  commit(): Promise<void>
  /** Removes what was staged; harmless after `commit`. */
  rollback(): Promise<void>
}

export interface PayloadStore {
  /** Folder that all payload paths lie in; ONNX Runtime maps external weights from here. */
  readonly root: string
  /** Streams bytes in while hashing; temporary name, fsync, rename. An aborted or failed put leaves nothing. */
  put(chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>, signal?: AbortSignal): Promise<PutResult>
  /** Many puts that cost one sync round; the signal aborts them all. */
  batch(signal?: AbortSignal): PayloadBatch
  has(hash: string): Promise<boolean>
  /** Size in bytes; PAYLOAD_MISSING where absent. */
  size(hash: string): Promise<number>
  /** Absolute path of the payload's file (it need not exist). */
  path(hash: string): string
  /** Whole payload in memory: for small ones (manifests, tokenizers, headers). */
  get(hash: string): Promise<Uint8Array>
  /** Streams `length` bytes from `offset` (default: all). */
  open(hash: string, offset?: number, length?: number): AsyncIterable<Uint8Array>
  list(): AsyncIterable<{ hash: string; bytes: number }>
  remove(hash: string): Promise<void>
  /** Sets a corrupt payload aside below quarantine/: from then on it is missing, and the next put of these bytes writes it anew. */
  quarantine(hash: string): Promise<void>
  /** When a payload was set aside last, 0 for never: what was opened before may stand on corrupt bytes. */
  quarantinedAt(): Promise<number>
  /** Removes what was set aside and is either whole in the store again or not `needed` any more; returns how many. */
  removeQuarantined(needed: (hash: string) => boolean): Promise<number>
  /** Re-hashes one payload: its true hash and size. */
  verify(hash: string, signal?: AbortSignal): Promise<{ hash: string; bytes: number }>
  /** Removes temporary files left by killed writers (`exclusive`: nobody else writes now, so all of them); returns how many. */
  removeTemporary(exclusive?: boolean): Promise<number>
}
