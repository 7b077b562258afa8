// The composed schema as committed: schema/supergraph.graphql. It is composed by schema/compose.ts and checked for drift by `npm test`.
import { readFileSync } from 'node:fs'
import { parse } from 'graphql'
import { projectFile } from '../lib/project.js'

/** @throws Error where the file is missing: the project was not built as committed */
export const loadSupergraph = (): string => readFileSync(projectFile('schema', 'supergraph.graphql'), 'utf8')

/** Names of the subgraphs a supergraph joins (the @join__graph names of its enum). */
export function subgraphNames(supergraphSdl: string): string[] {
  const graphs = parse(supergraphSdl).definitions.find(
    d => d.kind === 'EnumTypeDefinition' && d.name.value === 'join__Graph',
  )
  if (graphs?.kind !== 'EnumTypeDefinition') throw new Error('The supergraph has no join__Graph enum')
  return (graphs.values ?? []).flatMap(value =>
    (value.directives ?? []).flatMap(directive =>
      (directive.arguments ?? []).flatMap(a =>
        a.name.value === 'name' && a.value.kind === 'StringValue' ? [a.value.value] : [],
      ),
    ),
  )
}
