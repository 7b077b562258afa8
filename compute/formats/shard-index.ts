// model.safetensors.index.json: which file of a sharded model holds which tensor.
import { parseJsonObject } from './json-scan.js'
import { describeValue, invalid, maximumTensors } from './tensor-file.js'

/** Far above the largest published index (91,000 tensors, 9 MB). */
export const maximumIndexBytes = 64 * 1024 * 1024
/** DeepSeek-V3 has 163 shards. */
const maximumShards = 10_000

export interface ShardIndex {
  /** Shard names in order of first mention: plain file names beside the index. */
  files: string[]
  /** Tensor name -> shard. */
  weightMap: Map<string, string>
}

/** @throws DomainError INVALID_MODEL_FILE naming the entry at fault */
export function parseShardIndex(bytes: Uint8Array, file: string): ShardIndex {
  const { weight_map: map } = parseJsonObject(bytes, file, 8)
  if (typeof map !== 'object' || map === null || Array.isArray(map))
    throw invalid(`${file}: weight_map is not an object`)
  const entries = Object.entries(map)
  if (entries.length === 0 || entries.length > maximumTensors) {
    throw invalid(`${file}: weight_map names ${entries.length} tensors, expected 1 to ${maximumTensors}`)
  }
  const weightMap = new Map<string, string>()
  for (const [tensor, shard] of entries) {
    // A path would let a foreign index read any file of this machine.
    if (typeof shard !== 'string' || !/^[^/\\\0]{1,200}\.safetensors$/.test(shard) || shard.startsWith('.')) {
      throw invalid(
        `${file}: weight_map[${describeValue(tensor)}] is ${describeValue(shard)}, expected a .safetensors file name`,
      )
    }
    weightMap.set(tensor, shard)
  }
  const files = [...new Set(weightMap.values())]
  if (files.length > maximumShards) throw invalid(`${file}: ${files.length} shards, at most ${maximumShards}`)
  return { files, weightMap }
}
