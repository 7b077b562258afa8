// Which browsers may speak to the port: pages it served itself. A page of another site could otherwise drive a platform on localhost.
import type { IncomingHttpHeaders } from 'node:http'
import { isIP } from 'node:net'

/**
 * Why a request is refused, or undefined where it may pass. Programs send neither Origin nor Sec-Fetch-Site and pass.
 * @param loopback whether the port is bound to this machine only: then the Host must be a name of this machine too, since a foreign
 * name that resolves to 127.0.0.1 (DNS rebinding) would make any page same-origin
 */
export function refuseForeign(headers: IncomingHttpHeaders, loopback: boolean): string | undefined {
  const host = headers.host?.toLowerCase()
  const name = host?.replace(/:\d+$/, '').replace(/^\[|\]$/g, '')
  if (loopback && name && name !== 'localhost' && !name.endsWith('.localhost') && !isIP(name))
    return `Host ${name.slice(0, 100)} is not a name of this machine`
  if (headers.origin && (!URL.canParse(headers.origin) || new URL(headers.origin).host !== host))
    return `Pages of ${headers.origin.slice(0, 100)} may not use this server`
  const site = headers['sec-fetch-site']
  // Following a link to the explorer or a download is fine: the other page does not see what comes back.
  if ((site === 'cross-site' || site === 'same-site') && headers['sec-fetch-mode'] !== 'navigate')
    return 'Pages of other sites may not use this server'
  return undefined
}
