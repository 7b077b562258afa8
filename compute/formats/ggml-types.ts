// The ggml tensor types by id: name, elements per block, bytes per block (ggml.c type_traits; ids 4 and 5 left ggml before GGUF existed).
import { ownBlockTypes } from './int-blocks.js'

export interface GgmlType {
  id: number
  name: string
  /** Elements of one block; rows are whole numbers of blocks. */
  blockSize: number
  blockBytes: number
}

const rows: readonly (readonly [id: number, name: string, blockSize: number, blockBytes: number])[] = [
  [0, 'F32', 1, 4],
  [1, 'F16', 1, 2],
  [2, 'Q4_0', 32, 18],
  [3, 'Q4_1', 32, 20],
  [6, 'Q5_0', 32, 22],
  [7, 'Q5_1', 32, 24],
  [8, 'Q8_0', 32, 34],
  [9, 'Q8_1', 32, 36],
  [10, 'Q2_K', 256, 84],
  [11, 'Q3_K', 256, 110],
  [12, 'Q4_K', 256, 144],
  [13, 'Q5_K', 256, 176],
  [14, 'Q6_K', 256, 210],
  [15, 'Q8_K', 256, 292],
  [16, 'IQ2_XXS', 256, 66],
  [17, 'IQ2_XS', 256, 74],
  [18, 'IQ3_XXS', 256, 98],
  [19, 'IQ1_S', 256, 50],
  [20, 'IQ4_NL', 32, 18],
  [21, 'IQ3_S', 256, 110],
  [22, 'IQ2_S', 256, 82],
  [23, 'IQ4_XS', 256, 136],
  [24, 'I8', 1, 1],
  [25, 'I16', 1, 2],
  [26, 'I32', 1, 4],
  [27, 'I64', 1, 8],
  [28, 'F64', 1, 8],
  [29, 'IQ1_M', 256, 56],
  [30, 'BF16', 1, 2],
  // Repacked forms of Q4_0 and IQ4_NL: gone from ggml, still in old files.
  [31, 'Q4_0_4_4', 32, 18],
  [32, 'Q4_0_4_8', 32, 18],
  [33, 'Q4_0_8_8', 32, 18],
  [34, 'TQ1_0', 256, 54],
  [35, 'TQ2_0', 256, 66],
  [36, 'IQ4_NL_4_4', 32, 18],
  [37, 'IQ4_NL_4_8', 32, 18],
  [38, 'IQ4_NL_8_8', 32, 18],
  [39, 'MXFP4', 32, 17],
  [40, 'NVFP4', 64, 36],
  [41, 'Q1_0', 128, 18],
]

export const ggmlTypes: readonly GgmlType[] = rows.map(([id, name, blockSize, blockBytes]) => ({
  id,
  name,
  blockSize,
  blockBytes,
}))

const byId = new Map(ggmlTypes.map(type => [type.id, type]))
/** With ours, whose id is -1: no file of ggml's can hold them. */
const byName = new Map([...ggmlTypes, ...ownBlockTypes].map(type => [type.name, type]))

export const ggmlType = (id: number) => byId.get(id)
/** Storage type of a dtype, ours included. */
export const ggmlTypeByName = (name: string): GgmlType | undefined => byName.get(name)

/** Whether GGUF files can hold it. */
export const isGgmlType = (name: string): boolean => (byName.get(name)?.id ?? -1) >= 0

/** Whether the dtype stores blocks of codes with shared scales rather than plain numbers. */
export const isQuantized = (dtype: string) => (byName.get(dtype)?.blockSize ?? 1) > 1
