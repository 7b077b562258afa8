// Reverse-mode differentiation: adds to a graph the nodes that compute the gradients of a scalar it holds.
import type { GraphBuilder } from '../graph/builder.js'
import type { GraphNode, Value } from '../graph/ir.js'
import { apply } from '../ops/apply.js'
import { type Cotangent, dense, densify, zerosLike } from '../ops/cotangent.js'
import { type DerivativeArguments, derivatives, type NotDifferentiable, type Share } from '../ops/derivatives.js'
import type { OpName } from '../ops/table.js'
import { recomputation } from './recomputation.js'

type AnyDerivative = (node: DerivativeArguments) => (Share | null)[]

/**
 * The gradients of `loss` (a scalar of the graph being built) for each of `wrt`, in their order and shapes. Only nodes on the way
 * from `wrt` to `loss` are differentiated, so frozen weights cost nothing. A value that the loss does not depend on gets zeros.
 * Throws where an op on the way has no derivative.
 */
export function gradients(g: GraphBuilder, loss: Value, wrt: readonly Value[]): Value[] {
  if (loss.shape.length > 0) throw new Error(`loss ${loss.name} [${loss.shape}] is not a scalar`)
  return backward(g, [[loss, g.float32(1)]], wrt)
}

/**
 * The same where what the loss changes by is known for several values already (`seeds`: value and its cotangent, of one shape): what
 * comes after them needs no derivative. A seed may itself be one of `wrt`: it gets the sum of both.
 * @param kept values that stay in memory from the forward pass, in its order (see `recomputation`); absent: whatever derivatives read
 */
export function backward(
  g: GraphBuilder,
  seeds: readonly (readonly [value: Value, cotangent: Value])[],
  wrt: readonly Value[],
  kept: readonly Value[] = [],
): Value[] {
  const forward = [...g.nodes]
  const again = kept.length > 0 ? recomputation(g, forward, kept) : undefined
  const dependent = dependentNames(forward, wrt)
  const cotangents = new Map<string, Cotangent>()
  const add = (value: Value, share: Share) => {
    const known = cotangents.get(value.name)
    if (!known) {
      cotangents.set(value.name, share.make())
      return
    }
    const sum = densify(g, known)
    const total = share.onto?.(sum) ?? apply(g, 'Add', [sum, densify(g, share.make())])
    cotangents.set(value.name, dense(total))
  }
  for (const [value, cotangent] of seeds) add(value, { make: () => dense(cotangent) })
  for (const node of forward.reverse()) {
    const own = node.outputs.map(output => (output && cotangents.get(output.name)) ?? null)
    if (own.every(cotangent => cotangent === null)) continue
    const wanted = node.inputs.map(input => input !== null && dependent.has(input.name))
    if (!wanted.includes(true)) continue
    const shares = derivativeOf(node)({
      g,
      ...(again?.(node, () => densify(g, own.find(cotangent => cotangent !== null)!)) ?? node),
      attributes: node.attributes as DerivativeArguments['attributes'],
      cotangents: own,
      dy: memo(() => densify(g, own[0]!)),
    })
    node.inputs.forEach((input, i) => {
      const share = shares[i]
      if (input && wanted[i] && share) add(input, share)
    })
    // Nobody before this node reads them: what is kept is only what was asked for.
    for (const output of node.outputs) if (output && !wrt.includes(output)) cotangents.delete(output.name)
  }
  return wrt.map(value => {
    const cotangent = cotangents.get(value.name)
    return cotangent ? densify(g, cotangent) : zerosLike(g, value)
  })
}

/** Names of the values that change with those of `wrt`. */
function dependentNames(nodes: readonly GraphNode[], wrt: readonly Value[]): Set<string> {
  const names = new Set(wrt.map(value => value.name))
  for (const { inputs, outputs } of nodes) {
    if (!inputs.some(input => input && names.has(input.name))) continue
    for (const output of outputs) if (output?.type === 'float32') names.add(output.name)
  }
  return names
}

function derivativeOf({ op, outputs }: GraphNode): AnyDerivative {
  const rule: NotDifferentiable | unknown = derivatives[op as OpName]
  if (typeof rule === 'function') return rule as AnyDerivative
  const { reason } = rule as NotDifferentiable
  throw new Error(`${outputs.find(o => o)?.name}: ${op} has no derivative, ${reason}`)
}

function memo<T>(make: () => T): () => T {
  let known: { value: T } | undefined
  return () => {
    known ??= { value: make() }
    return known.value
  }
}
