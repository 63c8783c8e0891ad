import { ProtocolError } from './errors.ts';
import { LIMITS } from './limits.ts';

declare class TextEncoder {
  encode(text: string): Uint8Array;
}
declare class TextDecoder {
  constructor(label: string, options: { fatal: boolean; ignoreBOM: boolean });
  decode(bytes: Uint8Array): string;
}

const encoder = new TextEncoder();
/** Keeps a byte order mark: a name must come back as it was sent. */
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const LONE_SURROGATE = /\p{Surrogate}/u;

/**
 * Reads a string of the protocol: UTF-8, at most 4096 bytes, no NUL.
 *
 * @throws ProtocolError `too-large` or `bad-string`
 * @see NBD spec, "Conventions"
 */
export function decodeString(bytes: Uint8Array, what: string): string {
  if (bytes.length > LIMITS.string) {
    throw new ProtocolError('too-large', `${what} has ${bytes.length} bytes, more than ${LIMITS.string}`);
  }
  if (bytes.includes(0)) throw new ProtocolError('bad-string', `${what} contains a NUL`);
  try {
    return decoder.decode(bytes);
  } catch {
    throw new ProtocolError('bad-string', `${what} is not UTF-8`);
  }
}

/**
 * Writes a string of the protocol.
 *
 * @throws RangeError if the peer would have to refuse it
 */
export function encodeString(text: string, what: string): Uint8Array {
  if (text.includes('\0')) throw new RangeError(`${what} contains a NUL`);
  if (LONE_SURROGATE.test(text)) throw new RangeError(`${what} contains half of a surrogate pair`);
  const bytes = encoder.encode(text);
  if (bytes.length > LIMITS.string) {
    throw new RangeError(`${what} has ${bytes.length} bytes, more than ${LIMITS.string}`);
  }
  return bytes;
}

/** Writes a message for a human: whatever the text, what comes out is a valid string, cut after a whole character. */
export function encodeMessage(text: string): Uint8Array {
  const bytes = encoder.encode(text.replaceAll('\0', ''));
  if (bytes.length <= LIMITS.string) return bytes;
  let end: number = LIMITS.string;
  // A byte 10xxxxxx continues a character: step back to where one starts.
  while ((bytes[end]! & 0xc0) === 0x80) end -= 1;
  return bytes.subarray(0, end);
}
