// Models as atoms: a model row, its tensor rows, and the payloads they share. Table names are the seed's.
import { Entity, ForeignKey, Index } from 'typeorm'
import type { Dimensions, TensorComponent, TensorSlice } from '../../lib/manifest.js'
import {
  BigIntegerColumn,
  FlagColumn,
  HashColumn,
  IdColumn,
  IdPrimaryColumn,
  IntegerColumn,
  JsonColumn,
  NameColumn,
  RealColumn,
  TextColumn,
  TimeColumn,
} from '../columns.js'

@Entity('ModelAtoms')
@Index('IX_ModelAtoms_Tenant_Name', ['tenantId', 'name'])
@Index('IX_ModelAtoms_Parent', ['parentModelId'])
export class ModelAtom {
  @IdPrimaryColumn() id!: string
  @IdColumn() tenantId!: string
  @NameColumn() name!: string
  @NameColumn({ nullable: true }, 100) version!: string | null
  @NameColumn({}, 100) architecture!: string
  @BigIntegerColumn() parameterCount!: number
  @IntegerColumn() layerCount!: number
  @JsonColumn() dimensions!: Dimensions
  /** Dtype of most parameters, as the source names it. */
  @NameColumn({}, 40) dtype!: string
  @BigIntegerColumn() sizeBytes!: number
  @HashColumn() manifestHash!: string
  @TextColumn({ nullable: true }) source!: string | null
  @NameColumn({ nullable: true }, 200) license!: string | null
  @FlagColumn() isStudent!: boolean
  @FlagColumn() isProduction!: boolean
  @TextColumn({ nullable: true }) objective!: string | null
  @ForeignKey(() => ModelAtom)
  @IdColumn({ nullable: true })
  parentModelId!: string | null
  @TimeColumn() createdAt!: Date
  @TimeColumn({ nullable: true }) lastOptimizedAt!: Date | null
  /** Set when the model was deleted: the row stays for lineage, its tensors are gone. */
  @TimeColumn({ nullable: true }) deletedAt!: Date | null
}

@Entity('TensorAtoms')
@Index('IX_TensorAtoms_Model', ['modelId', 'ordinal'])
@Index('IX_TensorAtoms_Payload', ['payloadHash', 'modelId'])
export class TensorAtom {
  @IdPrimaryColumn() id!: string
  @IdColumn() tenantId!: string
  @ForeignKey(() => ModelAtom)
  @IdColumn()
  modelId!: string
  /** Place in the manifest. */
  @IntegerColumn() ordinal!: number
  @NameColumn() name!: string
  @NameColumn({ nullable: true }, 200) role!: string | null
  @IntegerColumn({ nullable: true }) layerIndex!: number | null
  @NameColumn({}, 20) component!: TensorComponent
  @JsonColumn() shape!: number[]
  /** Which part of which tensor of a parent it is; null on whole tensors. */
  @JsonColumn({ nullable: true }) slice!: TensorSlice | null
  @NameColumn({}, 40) dtype!: string
  @BigIntegerColumn() sizeBytes!: number
  @ForeignKey(() => TensorPayload)
  @HashColumn()
  payloadHash!: string
  /** Position in the network: x = layer (-1 before the first, layerCount after the last), y = component, z = place within it. */
  @RealColumn() positionX!: number
  @RealColumn() positionY!: number
  @RealColumn() positionZ!: number
}

/** One row per payload that any tensor refers to; referenceCount = number of TensorAtoms rows with this hash. */
@Entity('TensorPayloads')
export class TensorPayload {
  @IdPrimaryColumn(64) hash!: string
  @BigIntegerColumn() sizeBytes!: number
  @IntegerColumn() referenceCount!: number
  @TimeColumn() createdAt!: Date
}

@Entity('ModelEvents')
@Index('IX_ModelEvents_Model', ['modelId', 'id'])
export class ModelEvent {
  @IdPrimaryColumn() id!: string
  @IdColumn() tenantId!: string
  @ForeignKey(() => ModelAtom)
  @IdColumn()
  modelId!: string
  /** INGESTED, BUILT, ANALYZED, EXPORTED, DELETED … */
  @NameColumn({}, 40) kind!: string
  @TextColumn() description!: string
  /** Here and elsewhere without a foreign key: what a job did outlives the job's row. */
  @IdColumn({ nullable: true }) jobId!: string | null
  @TimeColumn() createdAt!: Date
}
