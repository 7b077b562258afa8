// A model's low-rank changes as a PEFT folder: adapter_config.json and adapter_model.safetensors, for the model as it was before them.
import { DomainError } from '../../lib/errors.js'
import type { Manifest, ManifestTensor } from '../../lib/manifest.js'
import type { Ancestor } from '../../lib/model-facts.js'
import type { PayloadStore } from '../../payloads/payload-store.js'
import { checkBuildable, tensorName } from '../architectures/registry.js'
import { readManifest } from '../formats/manifest.js'
import { writeSafetensorsHeader } from '../formats/safetensors.js'
import { placeOf } from './export-tensors.js'
import { reordered, storedStream, type TensorStream } from './tensor-streams.js'

export interface AdapterExport {
  config: Record<string, unknown>
  tensors: TensorStream[]
  header: Uint8Array
}

const refuse = (message: string): never => {
  throw new DomainError('UNSUPPORTED_FORMAT', message, { field: ['input', 'format'] })
}

/** The nearest ancestor that has the very tensors the changes were made to: what they lead away from. Builds have manifests of their own for the same tensors. */
export async function adapterBase(
  { adapter, tensors }: Manifest,
  ancestors: readonly Ancestor[],
  payloads: PayloadStore,
): Promise<Ancestor | undefined> {
  const bases = new Map(adapter?.changes.map(({ base }) => [base.name, base.payload]))
  const before = new Map(tensors.map(({ name, payload }) => [name, bases.get(name) ?? payload]))
  for (const ancestor of ancestors) {
    if (!(await payloads.has(ancestor.manifest))) continue
    const found = await readManifest(payloads, ancestor.manifest)
    if (found.tensors.length === before.size && found.tensors.every(t => before.get(t.name) === t.payload))
      return ancestor
  }
  return undefined
}

/**
 * The files' content. Factors lie as PEFT has them: lora_A [rank, in], lora_B [out, rank], added as alpha / rank B A.
 * @param base what adapter_config.json calls the model before the changes; undefined where that is no model of its own
 * @throws UNSUPPORTED_FORMAT where the model has no adapter, other weights than those the adapter led to, or no base that others could load
 */
export function planAdapter(
  manifest: Manifest,
  name: string,
  base: string | undefined,
  payloads: PayloadStore,
): AdapterExport {
  const { adapter, format, architecture } = manifest
  if (!adapter)
    return refuse(
      `${name}: has no adapter; one is kept where a model is trained with train LORA and lora.keepAdapter true`,
    )
  if (base === undefined)
    return refuse(
      `${name}: its adapter is for what its build had made before healing (manifest ${adapter.of ?? 'unknown'}), which is no model of its own; build that by a recipe without healing, then distil it`,
    )
  const model = checkBuildable(manifest)
  const { dimensions, architecture: family } = model
  const targets = new Set<string>()
  const tensors = adapter.changes.flatMap(({ role, base: tensor, merged, a, b }) => {
    if (model.tensors.get(role)?.payload !== merged)
      refuse(`${name}: ${tensor.name} was changed after its adapter was trained, which therefore does not lead to it`)
    const [outputs, inputs] = model.inputFirst.has(role) ? tensor.shape.toReversed() : tensor.shape
    const place = placeOf(model, tensor)
    const own = format === 'safetensors' ? tensor.name : tensorName(architecture, 'safetensors', role)
    const module = own.replace(/\.weight$/, '')
    targets.add(module.split('.').at(-1)!)
    const stream = (kind: 'A' | 'B', shape: [number, number], payload: string) =>
      storedStream(
        { ...tensor, dtype: 'F32', shape, bytes: shape[0] * shape[1] * 4, payload } satisfies ManifestTensor,
        `base_model.model.${inModel(module)}.lora_${kind}.weight`,
        payloads,
      )
    const second = stream('B', [outputs!, adapter.rank], b)
    const layout = family.ropeLayout.safetensors
    return [
      stream('A', [adapter.rank, inputs!], a),
      // Rows of q and k stand in the order of the base's own file.
      place?.rotated && dimensions.ropeLayout !== layout ? reordered(second, dimensions.headSize, layout) : second,
    ]
  })
  const config = {
    peft_type: 'LORA',
    task_type: 'CAUSAL_LM',
    base_model_name_or_path: base,
    r: adapter.rank,
    lora_alpha: adapter.alpha,
    lora_dropout: 0,
    bias: 'none',
    fan_in_fan_out: adapter.changes.some(({ role }) => model.inputFirst.has(role)),
    inference_mode: true,
    target_modules: [...targets],
  }
  return { config, tensors, header: writeSafetensorsHeader(tensors) }

  /** Some checkpoints leave out the name of the inner model. */
  function inModel(module: string) {
    const prefix = architecture === 'gpt2' ? 'transformer.' : 'model.'
    return module.startsWith(prefix) ? module : `${prefix}${module}`
  }
}
