// Which capability or model the parts of an analysis are about.
import { Ctx, FieldResolver, Resolver, Root } from 'type-graphql'
import type { RequestContext } from '../build/platform.js'
import { DroppedSamples, LayerCluster, MaskedGroup, ModelCapabilityScore } from './analysis.type.js'
import { Capability } from './capability.type.js'
import { Model, modelReference } from './references.js'
import { capabilityOfSlug } from './taxonomy.service.js'

@Resolver(() => LayerCluster)
export class LayerClusterResolver {
  @FieldResolver(() => Capability, { description: 'The capability.' })
  capability(@Root() cluster: LayerCluster, @Ctx() context: RequestContext): Promise<Capability> {
    return capabilityOfSlug(context, cluster.slug)
  }
}

@Resolver(() => MaskedGroup)
export class MaskedGroupResolver {
  @FieldResolver(() => Capability, { description: 'The capability.' })
  capability(@Root() group: MaskedGroup, @Ctx() context: RequestContext): Promise<Capability> {
    return capabilityOfSlug(context, group.slug)
  }
}

@Resolver(() => DroppedSamples)
export class DroppedSamplesResolver {
  @FieldResolver(() => Capability, { description: 'The capability.' })
  capability(@Root() dropped: DroppedSamples, @Ctx() context: RequestContext): Promise<Capability> {
    return capabilityOfSlug(context, dropped.slug)
  }
}

@Resolver(() => ModelCapabilityScore)
export class ModelCapabilityScoreResolver {
  @FieldResolver(() => Model, { description: 'The model.' })
  model(@Root() score: ModelCapabilityScore): Model {
    return modelReference(score.modelRowId)
  }
}
