// The sessions of one model: made when first needed, over the float32 files of just the weights their graph uses.
import { relative } from 'node:path'
import { DomainError } from '../../lib/errors.js'
import type { Fusion } from '../../lib/fusion.js'
import type { Manifest } from '../../lib/manifest.js'
import type { BuildableModel } from '../architectures/registry.js'
import { dequantize } from '../formats/dequantize.js'
import {
  checkDerivedFits,
  derivedBytes,
  elementCount,
  ensureFloat32,
  float32Path,
  type KeptFiles,
  keepFiles,
  releaseFiles,
  type StoredTensor,
  storedBytes,
} from '../formats/float-weights.js'
import type { Graph } from '../graph/ir.js'
import { createSession, type Session } from '../runtime/session.js'
import { sessionPool } from '../runtime/session-pool.js'
import { throwIfCancelled } from './cancellation.js'
import { builtInFusions, bytesToJoin, fuseGraph, quantisedFusions, splitResidualNorms } from './fuse-graph.js'
import { headGradientGraph, layerGradientGraph, lossGradientGraph } from './gradient-graphs.js'
import type { LocateWeight } from './graph-inputs.js'
import type { ModelContext } from './model.js'
import { buildModelGraph, type GraphVariant } from './model-graph.js'
import { readsPromptsOnCodes, takesQuantisedKernels, useQuantisedKernels } from './quantised-kernels.js'

/** `step`: the graph `generate` on quantised kernels. */
export type SessionGraph = GraphVariant | 'step' | 'head_gradients' | 'loss_gradient' | `layer_gradient.${number}`

export interface ModelSessions {
  /** The session of a graph. Throws DISK_FULL where the float32 form of its weights is more than the cache may hold. */
  session(variant: SessionGraph): Promise<Session>
  /**
   * Whether the model runs layer by layer only: its weights are more than sessions may hold (`session-pool.ts`), or their float32 form
   * more than the cache of derived files.
   */
  readonly pieceByPiece: boolean
  /** The graph that runs one token of each sequence. */
  readonly stepGraph: 'step' | 'generate'
  /** The graph that runs several tokens of one sequence. */
  readonly promptGraph: 'step' | 'generate'
  dispose(): Promise<void>
}

/** Of what all sessions may hold, one model's private copy takes at most this part. */
const largestCopyShare = 4

function buildGraph(model: BuildableModel, variant: SessionGraph, locate: LocateWeight): Graph {
  if (variant === 'step') return buildModelGraph(model, 'generate', locate)
  if (variant === 'head_gradients') return headGradientGraph(model, locate)
  if (variant === 'loss_gradient') return lossGradientGraph(model, locate)
  if (variant.startsWith('layer_gradient.'))
    return layerGradientGraph(model, locate, Number(variant.slice('layer_gradient.'.length)))
  return buildModelGraph(model, variant as GraphVariant, locate)
}

/** Roles of the tensors that a graph uses. */
function rolesOf(model: BuildableModel, variant: SessionGraph): Set<string> {
  const roles = new Set<string>()
  buildGraph(model, variant, role => {
    roles.add(role)
    return { location: '', offset: 0, length: 0 }
  })
  return roles
}

/** Whether steps run on quantised kernels. */
export const stepsOnCodes = (
  model: Pick<BuildableModel, 'tensors'>,
  { device, env }: Pick<ModelContext, 'device' | 'env'>,
): boolean =>
  (device?.provider ?? 'cpu') === 'cpu' && env.HARTONOMOUS_KERNELS === 'quantised' && takesQuantisedKernels(model, env)

/** Without room for joined weights beside the others the float32 graph stays as it is, which gives the same. */
export const hasRoomToJoin = (
  graph: Graph,
  model: Pick<BuildableModel, 'tensors'>,
  fusions: readonly Fusion[],
  env: Pick<ModelContext['env'], 'HARTONOMOUS_DERIVED_BYTES'>,
): boolean => derivedBytes(model.tensors.values()) + bytesToJoin(graph, model, fusions) <= env.HARTONOMOUS_DERIVED_BYTES

/** @throws what opening a model throws: see `openModel` */
export async function modelSessions(
  manifest: Manifest,
  model: BuildableModel,
  context: ModelContext,
): Promise<ModelSessions> {
  const { tensors } = model
  const name = manifest.sourceName ?? `A ${manifest.architecture} model`
  const all = [...tensors.values()]
  const floatBytes = all.reduce((sum, { shape }) => sum + elementCount(shape) * 4, 0)
  const fitsCache = derivedBytes(all) <= context.env.HARTONOMOUS_DERIVED_BYTES
  const pieceByPiece = !fitsCache || floatBytes > sessionPool.budget

  /** Makes the float32 file of every tensor that the cache of derived files does not hold (any more). */
  const ensureFiles = async (roles: Iterable<string>, kept: KeptFiles, signal?: AbortSignal) => {
    for (const role of roles) {
      throwIfCancelled(signal)
      await ensureFloat32({ ...context, signal, kept }, tensors.get(role)!)
    }
  }
  const ofModel = keepFiles()
  // Now, so that whoever opens a model waits for it and hears what is wrong with it.
  if (fitsCache) await ensureFiles(tensors.keys(), ofModel, context.signal)
  else await checkStored(all, context)

  const locate: LocateWeight = role => {
    const tensor = tensors.get(role)!
    const location = relative(context.dataFolder, float32Path(context, tensor))
    return { location, offset: 0, length: elementCount(tensor.shape) * 4 }
  }
  /**
   * What runs one token at a time. That reads every weight for little work, so stored codes are faster; for several tokens at once they are
   * at 8 bits only (`readsPromptsOnCodes`). What measures runs in float32, because losses are compared closer than quantised kernels round.
   * Only on the CPU: nobody has measured what these kernels do elsewhere.
   */
  const onCpu = (context.device?.provider ?? 'cpu') === 'cpu'
  const stepGraph = stepsOnCodes(model, context) ? 'step' : 'generate'
  const promptGraph = stepGraph === 'step' && readsPromptsOnCodes(model) ? 'step' : 'generate'
  /** A model that decodes in float32 does so a fifth faster on a private copy in its kernels' layout (docs/decisions/0025). */
  const copiesFloats = onCpu && stepGraph === 'generate' && floatBytes <= sessionPool.budget / largestCopyShare
  /** Of graphs that decode; nothing else is fused, so that what measures stays as it is. */
  const fusionsOf = (variant: SessionGraph): readonly Fusion[] => {
    if (variant === 'step') return context.fusions?.step ?? quantisedFusions
    if (variant !== 'generate') return []
    return context.fusions?.generate ?? [...builtInFusions, ...(manifest.fusions ?? [])]
  }
  const sessions = new Map<SessionGraph, Promise<Session>>()
  let disposed = false

  const open = async (variant: SessionGraph): Promise<Session> => {
    const roles = [...rolesOf(model, variant)]
    if (!fitsCache)
      checkDerivedFits(
        roles.map(role => tensors.get(role)!),
        context.env,
        name,
      )
    const files = { ...context, signal: undefined, kept: ofModel }
    const fusions = fusionsOf(variant)
    const onKernels = (graph: Graph) => {
      if (variant !== 'step' && variant !== 'generate') return graph
      if (variant === 'step')
        return useQuantisedKernels(
          fusions.includes('RESIDUAL_NORM') ? graph : splitResidualNorms(graph),
          model,
          files,
          fusions,
        )
      return hasRoomToJoin(graph, model, fusions, context.env) ? fuseGraph(graph, model, fusions, files) : graph
    }
    const graph = buildGraph(model, variant, locate)
    return createSession(await onKernels(graph), {
      weightsFolder: context.dataFolder,
      threads: context.env.HARTONOMOUS_THREADS,
      backend: context.backend,
      device: context.device,
      profile: variant === stepGraph ? context.profile : undefined,
      prepack: variant === 'step' || (variant === 'generate' && copiesFloats),
      spin: variant === 'step' || variant === 'generate',
      arena: !/^(layer|tail|masked)/.test(variant),
      async prepare() {
        const kept = fitsCache ? ofModel : keepFiles()
        const release = () => kept !== ofModel && releaseFiles(kept, true)
        try {
          await ensureFiles(roles, kept)
          await onKernels(graph)
        } catch (error) {
          release()
          throw error
        }
        return release
      },
    })
  }

  return {
    pieceByPiece,
    stepGraph,
    promptGraph,
    session(variant) {
      if (disposed) return Promise.reject(new Error(`model ${name} was disposed`))
      const known = sessions.get(variant)
      if (known) return known
      const created = open(variant)
      sessions.set(variant, created)
      created.catch(() => sessions.delete(variant))
      return created
    },
    async dispose() {
      disposed = true
      const opened = await Promise.allSettled(sessions.values())
      sessions.clear()
      for (const result of opened) if (result.status === 'fulfilled') await result.value.dispose()
      releaseFiles(ofModel)
    },
  }
}

/** What making the float32 forms would find out, without making them. */
async function checkStored(tensors: readonly StoredTensor[], { payloads, signal }: ModelContext) {
  for (const { name, dtype, shape, bytes, payload } of tensors) {
    throwIfCancelled(signal)
    // Throws where the dtype is not read as numbers.
    dequantize(dtype, new Uint8Array(0), new Float32Array(0))
    const expected = storedBytes(dtype, elementCount(shape))
    const stored = await payloads.size(payload)
    if (stored !== expected || bytes !== expected)
      throw new DomainError(
        'SHAPE_MISMATCH',
        `tensor ${name}: payload of ${stored} bytes, expected ${expected} for ${dtype} [${shape}]`,
      )
  }
}
