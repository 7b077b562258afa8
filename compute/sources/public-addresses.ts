// Connections to foreign hosts that cannot be led into the private network: every address is checked when it is connected to.
import { type LookupAddress, lookup } from 'node:dns'
import { isIP, type LookupFunction } from 'node:net'
import ipaddr from 'ipaddr.js'
import { Agent, type Dispatcher } from 'undici'
import { DomainError } from '../../lib/errors.js'

/** Silence after which a connection counts as lost; long enough for a slow disk at the other end. */
const idleMilliseconds = 30_000

const refused = (message: string) => new DomainError('SOURCE_REFUSED', message, { field: ['input', 'source'] })

const allowance = 'HARTONOMOUS_ALLOW_PRIVATE_SOURCES=true allows it'

/** Whether an IP address is a public one: not loopback, private, link-local, multicast, reserved or a form that wraps such. */
export function isPublicAddress(address: string): boolean {
  if (!ipaddr.isValid(address)) return false
  return ipaddr.process(address).range() === 'unicast'
}

// Called by the socket itself with the name it connects to, so that neither a redirect nor a second DNS answer escapes the check.
const publicLookup: LookupFunction = (hostname, options, callback) => {
  lookup(hostname, { ...options, all: true }, (error, addresses: LookupAddress[]) => {
    if (error) return callback(error, '', 0)
    const forbidden = addresses.find(({ address }) => !isPublicAddress(address))
    if (forbidden)
      return callback(refused(`${hostname} resolves to the private address ${forbidden.address}; ${allowance}`), '', 0)
    const [first] = addresses
    if (options.all) return callback(null, addresses)
    if (first) return callback(null, first.address, first.family)
    return callback(refused(`${hostname} has no address`), '', 0)
  })
}

/** Connections for one download; close it afterwards. */
export const makeDispatcher = (allowPrivate: boolean): Dispatcher =>
  new Agent({
    headersTimeout: idleMilliseconds,
    bodyTimeout: idleMilliseconds,
    connect: { timeout: idleMilliseconds, ...(allowPrivate ? {} : { lookup: publicLookup }) },
  })

/**
 * A URL that may be fetched: https (http too where private sources are allowed), and no literal private address (sockets skip the look-up for those).
 * @throws DomainError SOURCE_REFUSED
 */
export function checkUrl(text: string, allowPrivate: boolean, base?: URL): URL {
  if (!URL.canParse(text, base)) throw refused(`${text.slice(0, 200)}: not a valid address`)
  const url = new URL(text, base)
  if (url.protocol !== 'https:' && !(allowPrivate && url.protocol === 'http:')) {
    throw refused(
      `${url.protocol}//${url.host}: only https sources are read (HARTONOMOUS_ALLOW_PRIVATE_SOURCES=true allows http)`,
    )
  }
  const host = url.hostname.replace(/^\[|\]$/g, '')
  if (!allowPrivate && isIP(host) !== 0 && !isPublicAddress(host)) {
    throw refused(`${host} is a private address; ${allowance}`)
  }
  if (url.username || url.password) throw refused(`${url.host}: an address with a password in it is not read`)
  return url
}
