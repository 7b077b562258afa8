// Figures of a long bench by name, in a file of its data folder: a run that was stopped goes on behind the last one it had.
import { readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

export interface KeptFigures {
  /** What was found under this name, or what `find` finds now. */
  of<T>(name: string, find: () => Promise<T>): Promise<T>
}

/** @param folder undefined: nothing is kept */
export async function keptFigures(folder: string | undefined): Promise<KeptFigures> {
  const file = folder && join(folder, 'figures.json')
  const text = file ? await readFile(file, 'utf8').catch(() => '{}') : '{}'
  const figures = JSON.parse(text) as Record<string, unknown>
  return {
    async of<T>(name: string, find: () => Promise<T>): Promise<T> {
      if (name in figures) return figures[name] as T
      const found = await find()
      figures[name] = found
      if (file) {
        await writeFile(`${file}.tmp`, JSON.stringify(figures))
        await rename(`${file}.tmp`, file)
      }
      return found
    },
  }
}
