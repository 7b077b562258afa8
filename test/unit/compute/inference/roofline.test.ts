import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { decodeCeiling, deviceRoofline, type Roofline } from '../../../../compute/inference/roofline.js'
import type { Manifest, ManifestTensor } from '../../../../lib/manifest.js'

let dataFolder: string
beforeAll(async () => {
  dataFolder = await mkdtemp(join(tmpdir(), 'roofline-'))
})
afterAll(() => rm(dataFolder, { recursive: true, force: true }))

const roofline: Roofline = {
  device: 'test',
  bytesPerSecond: 1e9,
  weightsPerSecond4: 5e8,
  weightsPerSecond8: 4e8,
  flopsPerSecond: 1e12,
}
const tensor = (component: string, layerIndex: number | null, dtype: string, shape: number[]) =>
  ({
    name: `${component}.${layerIndex}`,
    component,
    layerIndex,
    dtype,
    shape,
    bytes: 0,
    payload: '',
  }) as unknown as ManifestTensor
const manifest = (tensors: ManifestTensor[]) => ({ tensors }) as unknown as Manifest
const layers = [0, 1, 2].map(layer => tensor('FEED_FORWARD', layer, 'Q4_1', [64, 32]))
const float32 = { quantisedKernels: false }

it('every weight is read once per token, of an embedding that is not the head only a row', () => {
  const norm = tensor('NORM', 0, 'F32', [32])
  const tied = manifest([tensor('EMBEDDING', null, 'Q8_0', [100, 32]), ...layers, norm])
  expect(decodeCeiling(roofline, tied, null, float32)).toBeCloseTo(1e9 / (4 * (3200 + 3 * 2048)), 6)
  expect(decodeCeiling(roofline, tied, [0, 2], float32)).toBeCloseTo(1e9 / (4 * (3200 + 2 * 2048)), 6)
  const untied = manifest([...tied.tensors, tensor('LM_HEAD', null, 'F16', [50, 32])])
  expect(decodeCeiling(roofline, untied, null, float32)).toBeCloseTo(1e9 / (4 * (1600 + 3 * 2048)), 6)
})

it('quantised weights count at the rate of their kernel, offsets of their blocks at the memory’s', () => {
  const mixed = manifest([tensor('EMBEDDING', null, 'Q8_0', [100, 32]), ...layers])
  const seconds = 3200 / 4e8 + 3 * (2048 / 5e8 + ((2048 / 32) * 4) / 1e9)
  expect(decodeCeiling(roofline, mixed, null, { quantisedKernels: true })).toBeCloseTo(1 / seconds, 6)
})

it('is measured once per device, and again where what was kept is damaged', async () => {
  const context = { dataFolder, env: { HARTONOMOUS_THREADS: 1 } }
  const first = await deviceRoofline(context)
  // Any machine lies between these: 0.1 GB and 2 TB per second, 0.1 GFLOP and 100 TFLOP per second.
  expect(first.bytesPerSecond).toBeGreaterThan(1e8)
  expect(first.bytesPerSecond).toBeLessThan(2e12)
  expect(first.flopsPerSecond).toBeGreaterThan(1e8)
  expect(first.flopsPerSecond).toBeLessThan(1e14)
  expect(await deviceRoofline(context)).toEqual(first)
  const path = join(dataFolder, 'derived', 'roofline-v1.json')
  await writeFile(path, '{"device":')
  const again = await deviceRoofline(context)
  expect(again.device).toBe(first.device)
  expect(JSON.parse(await readFile(path, 'utf8'))).toEqual(again)
})
