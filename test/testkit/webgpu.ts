// Whether WebGPU computes here: a graphics driver, or SwiftShader, which computes on the processor (docs/devices.md).
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { compiledFile } from '../../lib/project.js'

/** Where Debian's chromium-common puts it. */
export const swiftShader = {
  driver: '/usr/lib/chromium/vk_swiftshader_icd.json',
  library: '/usr/lib/chromium/libvk_swiftshader.so',
}

/** Environment in which WebGPU finds SwiftShader, or the driver that is named already. */
export const webGpuEnvironment = (): Record<string, string> =>
  process.env.VK_ICD_FILENAMES || !existsSync(swiftShader.driver) ? {} : { VK_ICD_FILENAMES: swiftShader.driver }

/** Why there is no WebGPU; undefined where there is. Says so on standard error, since a skipped test says nothing. */
export function webGpuProblem(): string | undefined {
  const env = { ...process.env, ...webGpuEnvironment() }
  const file = compiledFile('compute/discover-devices.js')
  const output = execFileSync(process.execPath, [file, 'webgpu'], {
    env,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  const { problem } = JSON.parse(output.trim().split('\n').at(-1)!)[0] as { problem: string | null }
  if (problem) process.stderr.write(`WebGPU is not tested here (docs/devices.md says what to install): ${problem}\n`)
  return problem ?? undefined
}
