/** What the first bytes of a client that does not speak NBD look like, for the log. */

const HTTP = /^(GET|HEAD|POST|PUT|DELETE|OPTIONS|CONNECT|PATCH|TRACE|PRI) /;

/** `bytes`: what the client sent first, the more the better up to 16. */
export function describeForeign(bytes: Uint8Array): string {
  const text = Buffer.from(bytes.subarray(0, 16)).toString('latin1');
  if (HTTP.test(text)) return 'an HTTP request';
  if (bytes[0] === 0x16 && bytes[1] === 0x03) {
    return 'a TLS handshake (NBD begins in plain text; is this a primary that wants the mirror’s port?)';
  }
  if (text.startsWith('SSH-')) return 'an SSH client';
  if (text.startsWith('NBDMAGIC')) return 'an NBD server';
  if (bytes.length === 0) return 'nothing';
  return `bytes ${Buffer.from(bytes.subarray(0, 16)).toString('hex')}`;
}
