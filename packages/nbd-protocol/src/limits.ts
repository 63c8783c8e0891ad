/**
 * A bound for every quantity that a peer controls. A decoder's constructor takes others where that makes sense.
 *
 * Those of the specification: `string`, `payload` ("Size constraints": what is not above must be accepted) and
 * `extents` ("Structured reply types"). The rest are far above what known peers send and far below what hurts.
 */
export const LIMITS = {
  /** Bytes in a string. */
  string: 4096,
  /** Bytes of option data that a server takes in; longer data is skipped and reported. */
  optionData: 65_536,
  /** Bytes of option data that a server skips; longer data ends the connection. */
  optionSkip: 1_048_576,
  /** Queries in LIST_META_CONTEXT and SET_META_CONTEXT. */
  queries: 1024,
  /** Bytes of data in an option reply of no known type that a client takes in. */
  optionReplyData: 65_536,
  /** Bytes of data in a WRITE, or in one chunk of the reply to a READ. */
  payload: 33_554_432,
  /** Bytes of a refused WRITE that a server still skips; a longer one ends the connection. */
  payloadSkip: 67_108_864,
  /** Metadata context ids in the payload of BLOCK_STATUS. */
  contextIds: 1024,
  /** Extents in one reply chunk. */
  extents: 1_048_576,
  /** Bytes after the message in an error chunk: a known one has at most 8, an unknown one may have more fields. */
  errorData: 4096,
} as const;
