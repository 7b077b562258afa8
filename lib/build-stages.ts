// What a recipe asks for beyond its layers, one key per stage of the build. Both planes speak it, like the manifest.
import { z } from 'zod'

/**
 * Parameters by stage; an absent key is a stage that the recipe does not ask for. The keys stand in the order in which a build runs them
 * (compute/handlers/build-stages.ts has what each one does). Rows of earlier versions must stay readable: new parameters are optional.
 */
export const buildStagesSchema = z.object({})
export type BuildStages = z.infer<typeof buildStagesSchema>
export type BuildStageName = keyof BuildStages

/** Whether a build runs the model, so that it must wait for a device. */
export const needsDevice = (_stages: BuildStages): boolean => false
