// Colours that stay apart for people with colour blindness, and in grey.

/** Viridis (Smith and van der Walt, matplotlib, CC0), from low to high. */
export const viridis = [
  '#440154',
  '#482878',
  '#3e4a89',
  '#31688e',
  '#26828e',
  '#1f9e89',
  '#35b779',
  '#6ece58',
  '#b5de2b',
  '#fde725',
]

/** Okabe and Ito's palette without black and yellow, which white paper does not carry, then darker neighbours. */
const categories = [
  '#0072b2',
  '#e69f00',
  '#009e73',
  '#cc79a7',
  '#d55e00',
  '#56b4e9',
  '#6a3d9a',
  '#8c6d31',
  '#004d40',
  '#7f0000',
  '#5f6caf',
  '#9c9c00',
]

/** The same capability has the same colour in every picture of a model; past twelve they repeat. */
export const categoryColour = (index: number): string => categories[index % categories.length]!

export const neutral = '#9a9a9a'
