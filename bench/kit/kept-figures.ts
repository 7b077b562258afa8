// Figures of a long bench by what they depend on, in a file of its data folder: a run that was stopped goes on behind the last one it had.
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { projectFile } from '../../lib/project.js'

/** What a figure depends on besides the code: hashes of manifests and probe sets, options. */
export type FigureInputs = Record<string, unknown>

export interface KeptFigure<T> {
  found: T
  /** When an earlier run found it; absent: this one did. */
  keptFrom?: string
}

export interface KeptFigures {
  /** What was found with these inputs and the same code, or what `find` finds now. */
  of<T>(inputs: FigureInputs, find: () => Promise<T>): Promise<KeptFigure<T>>
}

/** @param folder undefined: nothing is kept */
export async function keptFigures(folder: string | undefined, code?: string): Promise<KeptFigures> {
  const file = folder && join(folder, 'figures.json')
  const text = file ? await readFile(file, 'utf8').catch(() => '{}') : '{}'
  const figures = JSON.parse(text) as Record<string, { found: unknown; at: string }>
  const version = code ?? (await codeVersion())
  return {
    async of<T>(inputs: FigureInputs, find: () => Promise<T>): Promise<KeptFigure<T>> {
      const key = JSON.stringify([version, inputs])
      const kept = figures[key]
      if (kept) return { found: kept.found as T, keptFrom: kept.at }
      const found = await find()
      figures[key] = { found, at: new Date().toISOString() }
      if (file) {
        await writeFile(`${file}.tmp`, JSON.stringify(figures))
        await rename(`${file}.tmp`, file)
      }
      return { found }
    },
  }
}

/** The package's version, the commit, and a hash of what is changed since then; without git the version only. */
async function codeVersion(): Promise<string> {
  const { version } = JSON.parse(await readFile(projectFile('package.json'), 'utf8')) as { version: string }
  const git = async (...args: string[]) => {
    const options = { cwd: projectFile(), maxBuffer: 64 * 1024 * 1024 }
    return (await promisify(execFile)('git', args, options).catch(() => ({ stdout: '' }))).stdout
  }
  const changes = createHash('sha256').update(await git('diff', 'HEAD'))
  return [version, (await git('rev-parse', 'HEAD')).trim(), changes.digest('hex').slice(0, 16)].join(' ')
}
