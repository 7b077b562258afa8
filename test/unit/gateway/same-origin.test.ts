// Which requests count as coming from a page of another site.
import { expect, test } from 'vitest'
import { refuseForeign } from '../../../gateway/same-origin.js'

test.each([
  ['a program', {}],
  ['a program that names the address', { host: '127.0.0.1:4000' }],
  ['the explorer', { host: 'localhost:4000', origin: 'http://localhost:4000', 'sec-fetch-site': 'same-origin' }],
  ['IPv6', { host: '[::1]:4000', origin: 'http://[::1]:4000' }],
  ['a link from elsewhere', { host: 'localhost', 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate' }],
])('%s passes', (_, headers) => {
  expect(refuseForeign(headers, true)).toBeUndefined()
})
test.each([
  ['another page', { host: 'localhost:4000', origin: 'https://evil.example' }],
  ['another port of this machine', { host: 'localhost:4000', origin: 'http://localhost:3000' }],
  ['an opaque page', { host: 'localhost:4000', origin: 'null' }],
  ['a rebound name', { host: 'evil.example', origin: 'http://evil.example' }],
  ['an embedded image', { host: 'localhost', 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'no-cors' }],
])('%s is refused', (_, headers) => {
  expect(refuseForeign(headers, true)).toBeTypeOf('string')
})
test('a server for other machines may be called by any name', () => {
  expect(refuseForeign({ host: 'models.example', origin: 'https://models.example' }, false)).toBeUndefined()
})
