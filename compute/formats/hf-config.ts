// Hugging Face config.json -> architecture and dimensions.
import type { Dimensions } from '../../lib/manifest.js'
import { flagField, maximumLayers, nameField, objectField, positiveField, wholeField } from './read-fields.js'

type Json = Record<string, unknown>

/** `model_type`, or what the class name says (`LlamaForCausalLM`); `unknown` where neither is there. */
export function hfArchitecture(config: Json): string {
  const type = nameField(config, ['model_type'], 'config.json')
  if (type) return type
  const [first] = Array.isArray(config.architectures) ? config.architectures : []
  const family = typeof first === 'string' ? /^([A-Za-z0-9]+?)(For|Model|LMHead)/.exec(first)?.[1] : undefined
  return family?.toLowerCase() ?? 'unknown'
}

/**
 * Dimensions as far as the configuration states them (names of Llama, GPT-2, GPT-NeoX, OPT, BLOOM families).
 * @param layersSeen layers counted from tensor names, used where the configuration is silent
 * @throws DomainError INVALID_MODEL_FILE naming the field and its value
 */
export function hfDimensions(config: Json, file: string, layersSeen: number): Dimensions {
  // Models that also see or hear keep their language part one level down.
  const c = objectField(config, 'text_config') ?? config
  const whole = (...names: string[]) => wholeField(c, names, file)
  // transformers 5 moved rope_theta and rope_scaling into rope_parameters.
  const rope = objectField(c, 'rope_parameters')
  const scaling = objectField(c, 'rope_scaling') ?? rope
  const scaled = scaling && (scaling.rope_type ?? scaling.type ?? 'default') !== 'default'
  return {
    layerCount:
      wholeField(c, ['num_hidden_layers', 'n_layer', 'num_layers', 'n_layers'], file, 0, maximumLayers) ?? layersSeen,
    hiddenSize: whole('hidden_size', 'n_embd', 'd_model'),
    intermediateSize: whole('intermediate_size', 'n_inner', 'ffn_dim', 'd_ff'),
    attentionHeadCount: whole('num_attention_heads', 'n_head', 'num_heads'),
    keyValueHeadCount: whole('num_key_value_heads', 'num_kv_heads'),
    headSize: whole('head_dim'),
    vocabularySize: whole('vocab_size'),
    contextLength: whole('max_position_embeddings', 'n_positions', 'n_ctx', 'seq_length'),
    normEpsilon: positiveField(c, ['rms_norm_eps', 'layer_norm_epsilon', 'layer_norm_eps'], file),
    ropeTheta: positiveField(c, ['rope_theta'], file) ?? (rope && positiveField(rope, ['rope_theta'], file)),
    ropeScaling: scaled ? scaling : undefined,
    slidingWindow: flagField(c, 'use_sliding_window') === false ? undefined : whole('sliding_window'),
    tiedEmbeddings: flagField(c, 'tie_word_embeddings'),
  }
}

/** A licence says its name at its beginning, a README in its front matter. */
const licenseCharacters = 65_536

/** SPDX-like name from a README's front matter or a licence text; undefined where nothing is recognised. */
export function hfLicense(texts: { readme?: string; license?: string }): string | undefined {
  const front = /^---[ \t\r]*\n([\s\S]*?)\n---/.exec((texts.readme ?? '').slice(0, licenseCharacters))?.[1]
  const named = front && /^license:[ \t]*['"]?([\w.+-]{1,100})/m.exec(front)?.[1]
  if (named) return named
  const text = (texts.license ?? '').slice(0, licenseCharacters)
  if (/Apache License\s+Version 2\.0/i.test(text)) return 'apache-2.0'
  if (/\bMIT License\b|Permission is hereby granted, free of charge/i.test(text)) return 'mit'
  return undefined
}
