import { encodeServerGreeting, HandshakeFlag } from 'nbd-protocol';
import { MIB } from '../base/units.ts';

/** A bound for every quantity that clients control, and the times that the server waits for them. */
export interface NbdLimits {
  /** Connections at once; further ones are closed at once. */
  readonly connections: number;
  /** Milliseconds from the connection to the transmission, TLS included. */
  readonly handshakeMs: number;
  /** Options that one client may send. */
  readonly options: number;
  /** Bytes of replies to options that may wait for a client to read them. */
  readonly handshakeUnread: number;
  /** Bytes in flight on one connection: payloads, replies not yet sent, and REQUEST_COST for each request. */
  readonly connectionInFlight: number;
  /** The same for all connections together. */
  readonly serverInFlight: number;
  /** Milliseconds without a byte in the middle of a payload, whose buffer others may be waiting for. */
  readonly payloadStallMs: number;
  /** Milliseconds in which a client whose replies wait for it must take some of them: what they hold, others may need. */
  readonly replyStallMs: number;
  /** Bytes of requests, for all connections together, taken in from clients that have gone, to learn how they went. */
  readonly partingSize: number;
  /** Milliseconds for a client to close its end after we have closed ours, or for what a client left to be read. */
  readonly lingerMs: number;
}

export const DEFAULT_LIMITS: NbdLimits = {
  connections: 256,
  handshakeMs: 60_000,
  options: 1024,
  handshakeUnread: MIB,
  connectionInFlight: 64 * MIB,
  serverInFlight: 512 * MIB,
  payloadStallMs: 60_000,
  replyStallMs: 60_000,
  partingSize: 64 * MIB,
  lingerMs: 5_000,
};

/** What is counted for a request beside its payload or its data: it bounds the number of requests in flight too. */
export const REQUEST_COST = 4096;

/** What is counted for a request held back, beside its payload. */
export const HELD_REQUEST_SIZE = 256;

/** What is counted for BLOCK_STATUS: about two full answers. */
export const BLOCK_STATUS_COST = 128 * 1024;

/** Largest payload of a request, and most bytes that one READ may ask for. */
export const PAYLOAD_MAX = 32 * MIB;

/** Extents in one answer to BLOCK_STATUS, per context: looking up more would hold up the other requests. */
export const EXTENTS_MAX = 4096;

/** Shortest READ for which holes are looked for: below, looking costs more than sending zeroes. */
export const SPARSE_READ_MIN = 32 * 1024;

/** Most chunks that a sparse READ is cut into. */
export const SPARSE_CHUNKS_MAX = 64;

/** Block sizes advertised. */
export const BLOCK_SIZES = { minimum: 1, preferred: 4096, maximum: PAYLOAD_MAX } as const;

/** The server's first bytes. */
export const GREETING = encodeServerGreeting(HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES);
