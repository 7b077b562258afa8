// An ECharts option -> SVG text: static, without script, with a title and a description for those who do not see it.
import type { EChartsOption } from 'echarts'

export interface Picture {
  title: string
  /** What the picture shows, in a sentence or two. */
  description: string
  /** Pixels. */
  width: number
  height: number
  option: EChartsOption
}

/** Without quotation marks: ECharts writes it into an attribute as it is. */
const fontFamily = 'system-ui, -apple-system, Helvetica, Arial, sans-serif'

let loading: Promise<typeof import('echarts/core')> | undefined

/** Loaded with the first picture: it takes a third of a second and some 40 MB. */
async function loadCharts() {
  const [core, charts, components, renderers] = await Promise.all([
    import('echarts/core'),
    import('echarts/charts'),
    import('echarts/components'),
    import('echarts/renderers'),
  ])
  core.use([
    charts.BarChart,
    charts.CustomChart,
    charts.HeatmapChart,
    charts.LineChart,
    charts.ScatterChart,
    components.GraphicComponent,
    components.GridComponent,
    components.LegendComponent,
    components.TitleComponent,
    components.VisualMapComponent,
    renderers.SVGRenderer,
  ])
  return core
}

/** Characters that XML 1.0 has no way to say, lone halves of surrogate pairs among them. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
const unsayable = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|\p{Surrogate}/gu

/** A text of users' as a picture can hold it: sayable in XML, on one line, at most `length` characters. */
export function plainText(text: string, length = 80): string {
  const characters = [...text.replace(unsayable, '\ufffd').replace(/\s+/g, ' ')]
  return characters.length > length ? `${characters.slice(0, length - 1).join('')}…` : characters.join('')
}

const entities: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' }
export const escapeXml = (text: string) => text.replace(/[&<>"']/g, c => entities[c]!)

/**
 * Takes out what ECharts adds for a page: rules for hovering, and names that count up with every chart of the process,
 * so that the same data gives the same text.
 */
const withoutState = (svg: string) =>
  svg
    .replace(/<style ?>.*?<\/style>/gs, '')
    .replace(/ class="zr\d+-cls-\d+"/g, '')
    .replace(/("|url\(#)zr\d+-/g, '$1part-')

export async function renderSvg({ title, description, width, height, option }: Picture): Promise<string> {
  loading ??= loadCharts()
  const { init } = await loading
  const chart = init(null, null, { renderer: 'svg', ssr: true, width, height })
  try {
    chart.setOption({
      animation: false,
      backgroundColor: '#ffffff',
      textStyle: { fontFamily, color: '#222222' },
      ...option,
    })
    const svg = withoutState(chart.renderToSVGString())
    const end = svg.indexOf('>') + 1
    return `${svg.slice(0, end - 1)} role="img" aria-labelledby="title description">
<title id="title">${escapeXml(title)}</title>
<desc id="description">${escapeXml(description)}</desc>${svg.slice(end)}`
  } finally {
    chart.dispose()
  }
}
