// The content-addressed store as everyone sees it: put, get, open a range, by SHA-256.

export interface PutResult {
  hash: string
  bytes: number
  /** False where the payload was there already: nothing was written. */
  written: boolean
}

export interface PayloadStore {
  /** Folder that all payload paths lie in; ONNX Runtime maps external weights from here. */
  readonly root: string
  /** Streams bytes in while hashing; temporary name, fsync, rename. An aborted or failed put leaves nothing. */
  put(chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>, signal?: AbortSignal): Promise<PutResult>
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
  /** Re-hashes one payload: its true hash and size. */
  verify(hash: string, signal?: AbortSignal): Promise<{ hash: string; bytes: number }>
  /** Removes temporary files left by killed writers; returns how many. */
  removeTemporary(): Promise<number>
}
