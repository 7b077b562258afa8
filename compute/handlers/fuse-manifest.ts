// A manifest to one whose graph computes more at once: each fusion timed here, those that are worth it applied, outputs held against what they were.
import {
  type Fusion,
  type FusionCheck,
  type FusionMode,
  type FusionOptions,
  type FusionRow,
  fusions,
} from '../../lib/fusion.js'
import type { Manifest } from '../../lib/manifest.js'
import { checkBuildable } from '../architectures/registry.js'
import { readManifest, writeManifest } from '../formats/manifest.js'
import { builtInFusions, fusionSites, quantisedFusions } from '../inference/fuse-graph.js'
import { buildModelGraph } from '../inference/model-graph.js'
import { hasRoomToJoin, stepsOnCodes } from '../inference/model-sessions.js'
import { readsPromptsOnCodes } from '../inference/quantised-kernels.js'
import { compareOutputs } from './compare-outputs.js'
import { foldableNorms, foldNorms } from './fold-norms.js'
import type { HandlerContext } from './handler.js'
import { type Form, timeForms } from './time-fusions.js'

export interface FusedManifest {
  /** The source's own where nothing was applied. */
  manifest: string
  source: string
  applied: Fusion[]
  rows: FusionRow[]
  /** Of what was applied, or was to be. */
  check?: FusionCheck
}

const modes: readonly FusionMode[] = ['STEP', 'PROMPT']

const notThere: Record<Fusion, string> = {
  NORM_WEIGHT: 'no norm is read by matrices of plain numbers only: codes would have to be rounded again',
  QKV: 'queries, keys and values are one product already, or are stored as [in, out]',
  GATE_UP: 'there are no two products of one input in the feed-forward blocks',
  NORM_ATTENTION: 'something comes between the product and attention: a norm of heads, or a rotation outside of it',
  RESIDUAL_NORM: 'no norm follows a residual sum',
}

const noRoom =
  'the cache of derived files has no room for joined weights beside the others: the graph would stay as it is (HARTONOMOUS_DERIVED_BYTES)'

/**
 * A fused model begins anew from what it was fused from, where that is kept.
 * @param probeSet payload: samples that outputs are compared on (validation split)
 * @throws UNSUPPORTED_ARCHITECTURE and what opening models throws, NO_TOKENIZER, INVALID_PROBE_DATASET
 */
export async function fuseManifest(
  hash: string,
  options: FusionOptions,
  probeSet: string,
  context: HandlerContext,
): Promise<FusedManifest> {
  const { payloads, signal } = context
  const asked = await readManifest(payloads, hash)
  const source = asked.fusedFrom && (await payloads.has(asked.fusedFrom)) ? asked.fusedFrom : hash
  const manifest = source === hash ? asked : await readManifest(payloads, source)
  const timed = await timeAll(manifest, options, context)
  const unchanged = { manifest: source, source, applied: [], rows: timed.rows }
  const wanted = chosen(timed, options)
  if (wanted.length === 0) return unchanged
  const model = checkBuildable(manifest)
  const folded = wanted.includes('NORM_WEIGHT')
    ? await foldNorms(manifest, model, foldableNorms(model), context)
    : manifest
  const { sourceFiles: _ofTheSource, ...rest } = folded
  const fused: Manifest = { ...rest, fusions: wanted, fusedFrom: source }
  const check = await compareOutputs(manifest, fused, probeSet, context)
  const same = check.largestDeviation <= options.tolerance
  const rows = timed.rows.map((row): FusionRow => {
    const applies = row.fusion === 'ALL' ? options.together : (wanted as string[]).includes(row.fusion)
    if (row.state === 'BUILT_IN' || !applies) return row
    if (same)
      return { ...row, state: 'APPLIED', ...(row.fusion === 'NORM_WEIGHT' ? foldedBytes(manifest, folded) : {}) }
    const reason = `a logit moved by ${check.largestDeviation.toExponential(1)} of the greatest, ${options.tolerance} is allowed`
    return { ...row, state: 'OUTPUTS_DIFFER', reason }
  })
  if (!same) return { ...unchanged, rows, check }
  return { manifest: (await writeManifest(payloads, fused, signal)).hash, source, applied: wanted, rows, check }
}

/** Folded projections are float32, whatever they were. */
function foldedBytes(before: Manifest, after: Manifest): Pick<FusionRow, 'reason'> {
  const sum = ({ tensors }: Manifest) => tensors.reduce((bytes, tensor) => bytes + tensor.bytes, 0)
  const [from, to] = [sum(before), sum(after)]
  return from === to ? {} : { reason: `folded projections became float32: ${from} bytes are ${to} now` }
}

/** What decides about a fusion: decoding, or prompts where decoding has it already. */
const judging = (rows: readonly FusionRow[], fusion: FusionRow['fusion']) =>
  modes
    .map(mode => rows.find(row => row.fusion === fusion && row.mode === mode && row.state === 'BELOW_THRESHOLD'))
    .find(row => row !== undefined)

function chosen({ rows, candidates }: Timed, { threshold, together }: FusionOptions): Fusion[] {
  const reaches = (fusion: FusionRow['fusion']) => (judging(rows, fusion)?.speedup ?? 0) >= threshold
  // One alone is all there is, and has no row for all.
  if (together && candidates.length > 1) return reaches('ALL') ? candidates : []
  return candidates.filter(reaches)
}

interface Timed {
  rows: FusionRow[]
  /** What could be applied. */
  candidates: Fusion[]
}

/** Every fusion against the engine as it is: what it does of itself is timed against the graph without it. */
async function timeAll(manifest: Manifest, options: FusionOptions, context: HandlerContext): Promise<Timed> {
  const model = checkBuildable(manifest)
  const graph = buildModelGraph(model, 'generate', () => ({ location: '', offset: 0, length: 0 }))
  const norms = foldableNorms(model)
  const sites = { ...fusionSites(graph, model), NORM_WEIGHT: norms.length }
  const current = {
    step: stepsOnCodes(model, context) ? quantisedFusions : builtInFusions,
    generate: builtInFusions,
  }
  /** Which graph a mode runs: models in plain numbers have one for both. */
  const graphOf = (mode: FusionMode) =>
    stepsOnCodes(model, context) && (mode === 'STEP' || readsPromptsOnCodes(model)) ? 'step' : 'generate'
  const unitNorms = (on: Manifest) => foldNorms(on, model, norms, context, true)
  const tried = fusions.filter(fusion => !options.only || options.only.includes(fusion))
  /** Whether a mode's graph would hold what these join; graphs on codes join them as they are stored. */
  const hasRoom = (mode: FusionMode, added: readonly Fusion[]) =>
    graphOf(mode) === 'step' || hasRoomToJoin(graph, model, [...current.generate, ...added], context.env)
  const isThere = (mode: FusionMode, fusion: Fusion) => sites[fusion] > 0 && hasRoom(mode, [fusion])
  const there = tried.filter(fusion => modes.some(mode => isThere(mode, fusion)))
  const isCandidate = (fusion: Fusion) =>
    modes.some(mode => !current[graphOf(mode)].includes(fusion) && isThere(mode, fusion))
  const candidates = there.filter(isCandidate)
  const total = (there.length + (candidates.length > 1 ? 1 : 0)) * (options.rounds + 1)
  let done = 0

  const time = async (added: readonly Fusion[]) => {
    const change = (set: readonly Fusion[]): [without: Fusion[], having: Fusion[]] => {
      const without = set.filter(
        fusion => !added.includes(fusion) && !(fusion === 'NORM_ATTENTION' && added.includes('QKV')),
      )
      return added.every(fusion => set.includes(fusion))
        ? [without, [...set]]
        : [[...set], [...new Set([...set, ...added])]]
    }
    const [step, generate] = [change(current.step), change(current.generate)]
    const before: Form = { manifest, fusions: { step: step[0], generate: generate[0] } }
    const after: Form = {
      manifest: added.includes('NORM_WEIGHT') ? await unitNorms(manifest) : manifest,
      fusions: { step: step[1], generate: generate[1] },
    }
    const begun = done
    return timeForms(before, after, options.rounds, context, round => {
      done = begun + round + 1
      context.progress({ stage: 'time', completed: Math.min(done, total), total, unit: 'rounds' })
    })
  }

  const rows: FusionRow[] = []
  for (const fusion of tried) {
    const found = there.includes(fusion) ? await time([fusion]) : undefined
    for (const mode of modes) {
      if (!found || !isThere(mode, fusion)) {
        const reason = sites[fusion] === 0 ? notThere[fusion] : noRoom
        rows.push({ fusion, mode, sites: sites[fusion], state: 'NOT_APPLICABLE', reason })
        continue
      }
      const state = current[graphOf(mode)].includes(fusion) ? 'BUILT_IN' : 'BELOW_THRESHOLD'
      rows.push({ fusion, mode, sites: sites[fusion], state, ...found[mode] })
    }
  }
  if (candidates.length > 1) {
    const found = await time(candidates)
    const all = candidates.reduce((sum, fusion) => sum + sites[fusion], 0)
    for (const mode of modes)
      if (candidates.some(fusion => !current[graphOf(mode)].includes(fusion)) && hasRoom(mode, candidates))
        rows.push({ fusion: 'ALL', mode, sites: all, state: 'BELOW_THRESHOLD', ...found[mode] })
  }
  return { rows, candidates }
}
