// `node discover-devices.js PROVIDER`: opens a session on each device of the provider and prints, as one line of JSON, which of them compute.
import { graphBuilder } from './graph/builder.js'
import { apply } from './ops/apply.js'
import { type DeviceDescription, type ProviderName, providers } from './runtime/providers.js'
import { createSession, floats } from './runtime/session.js'

const provider = process.argv[2] as ProviderName

/** The reason why the device does not compute; null where a small product comes out right. */
async function problemOf(index: number): Promise<string | null> {
  try {
    const g = graphBuilder('probe')
    const x = g.input('x', 'float32', ['rows', 2])
    g.output(apply(g, 'Gemm', [x, x], { transB: 1 }, { name: 'y' }))
    const session = await createSession(g.build(), { weightsFolder: process.cwd(), device: { provider, index } })
    const { y } = await session.run({ x: floats(Float32Array.of(1, 2), [1, 2]) }, ['y'])
    return y?.data[0] === 5 ? null : `${provider}-${index}: 1² + 2² came out as ${y?.data[0]}`
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}

const devices: DeviceDescription[] = providers[provider].list()
const found = []
for (const [index, device] of (devices.length > 0 ? devices : [{ name: provider, memoryBytes: null }]).entries())
  found.push({ ...device, problem: await problemOf(index) })
// Dawn's threads must not keep the process from ending, nor tear down while it does.
process.stdout.write(`${JSON.stringify(found)}\n`, () => process.exit(0))
