/**
 * What a peer did wrong. Stable: match on these.
 *
 * | code | meaning |
 * | --- | --- |
 * | `bad-magic` | not the magic number that opens this message: not our protocol, or out of step |
 * | `bad-flags` | a flag that is not known, not offered, or missing where the specification demands it |
 * | `bad-length` | a length that this message cannot have |
 * | `bad-string` | not UTF-8, or with a NUL |
 * | `bad-value` | a field with a value that the specification forbids |
 * | `too-large` | a length or a count above its limit |
 * | `unexpected` | a well-formed message where it must not be |
 */
export type ProtocolErrorCode =
  | 'bad-magic'
  | 'bad-flags'
  | 'bad-length'
  | 'bad-string'
  | 'bad-value'
  | 'too-large'
  | 'unexpected';

/** The peer broke the protocol in a way that leaves no next message to go on with: drop the connection. */
export class ProtocolError extends Error {
  override readonly name = 'ProtocolError';
  readonly code: ProtocolErrorCode;

  constructor(code: ProtocolErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}
