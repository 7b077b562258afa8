// Numbers as people read them.
const units = ['', 'k', 'M', 'G', 'T']
/** 1234567 -> `1.2 M`; bytes come out as `1.2 MB`. */
export function quantity(value: number, unit = ''): string {
  let power = 0
  let scaled = value
  while (Math.abs(scaled) >= 1000 && power < units.length - 1) {
    scaled /= 1000
    power++
  }
  const digits =
    power === 0 ? String(Math.round(scaled * 10) / 10) : scaled.toFixed(scaled < 10 ? 2 : scaled < 100 ? 1 : 0)
  const suffix = unit === 'bytes' ? `${units[power]}B` : [units[power], unit].filter(Boolean).join(' ')
  return suffix ? `${digits} ${suffix}` : digits
}
