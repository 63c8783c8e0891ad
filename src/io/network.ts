/**
 * The door to the network: listeners and authenticated byte streams. Node implementation in node-network.ts; the
 * simulator has one with loss, delay and partitions.
 */
import type { LinkTls, NbdTls } from '../secure/tls.ts';

/** Where to listen or connect. Port 0 picks a free one. */
export type Address =
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string }
  /** An already listening socket handed over by systemd (LISTEN_FDS). */
  | { readonly kind: 'descriptor'; readonly descriptor: number };

export interface StreamEvents {
  /** Bytes arrived. The chunk belongs to the receiver, which may keep views of it; it is never modified afterwards. */
  data(chunk: Buffer): void;
  /** What was queued has gone out: `write` may go on. */
  drain(): void;
  /** The peer sent its end; nothing more will arrive, writing may still work. */
  end(): void;
  /** The stream is gone; called exactly once, always last. `reason` is undefined after a clean close. */
  close(reason: Error | undefined): void;
}

/** A duplex byte stream over TCP, a unix socket, or TLS on either: as much of it as the link needs. */
export interface LinkStream {
  /** For logs: `203.0.113.7:40112`, or `unix`. */
  readonly peerName: string;
  /** The identity that proved its key: TLS-PSK identity or certificate subject; undefined without TLS. */
  readonly identity: string | undefined;
  readonly encrypted: boolean;
  /** Bytes accepted by `write` and not yet handed to the kernel. */
  readonly queuedSize: number;
  /** Bytes that went out and came in, as counted on this stream (plaintext of TLS). */
  readonly bytesWritten: number;
  readonly bytesRead: number;
  /** Must be called once, synchronously after the stream was handed over; data is held back until then. */
  receive(events: StreamEvents): void;
  /**
   * Sends the chunks in order, as one socket write. The buffers must not change until `sent`, which is called when they are
   * not needed any more, perhaps before this returns, and not at all when the stream goes before. False: wait for `drain`.
   */
  write(chunks: readonly Uint8Array[], sent?: () => void): boolean;
  /** Stops and resumes `data` events: back-pressure. */
  pause(): void;
  resume(): void;
  /** Sends what is queued, then ends our direction. */
  end(): void;
  /** Ends at once, dropping what is queued. */
  destroy(reason?: Error): void;
}

/** A byte stream with what a server needs that serves clients over it. */
export interface ByteStream extends LinkStream {
  /**
   * Bytes of the socket write under way, in this process and in the kernel, that have not reached the other end; of TLS
   * the encrypted ones. While nothing is written and this does not shrink, the peer reads nothing. Costs a system call.
   */
  undeliveredSize(): number;
  /**
   * True when the peer has closed, ended its direction or is lost, told also while paused, when `end` and `close` do not
   * come; what it sent before may still be to come as `data`. Costs a system call. A peer that vanished without a word
   * is there until the kernel finds out.
   */
  peerGone(): boolean;

  /**
   * In `data`, behind what that brought: receives into `target`, at once, what has arrived meanwhile. Returns how many
   * bytes; 0 when there are none, or the stream cannot tell (TLS, a pause).
   */
  receiveNow(target: Uint8Array): number;
  /** When the stream was lost while paused: what had arrived and was held back. To be asked in `close`, once. */
  takeUnread(): Buffer | undefined;
  /**
   * Server side of NBD's STARTTLS: from now on TLS. This stream must not be used afterwards; use the one returned. Call
   * it in the same turn as the `write` of the answer to STARTTLS: what arrives later waits and goes through TLS. What
   * the caller has received already beyond the option was sent in plaintext too early: it must refuse, not carry it over.
   * Failures, with the connection closed: `secret-rejected`, `tls-failed`, `tls-config`, `connection-lost`.
   */
  startTls(tls: NbdTls): Promise<ByteStream>;
}

export interface Listener {
  /** The address really bound, with the chosen port. */
  readonly address: Address;
  /** Stops accepting; streams already handed out live on. */
  close(): Promise<void>;
}

export interface Network {
  /** Plain listener (NBD). Failures: `address-in-use`, `address-invalid`, `address-unavailable`. */
  listen(address: Address, onStream: (stream: ByteStream) => void): Promise<Listener>;
  /** Plain connection (NBD client). */
  connect(address: Address, timeoutMs: number): Promise<ByteStream>;
  /**
   * Listener of the link: hands out only streams whose TLS 1.3 PSK handshake has finished, `identity` set. Handshakes
   * are limited in time and number; failures are reported to `onRefused` with the peer's name and a Failure.
   */
  listenLink(
    address: Address,
    tls: LinkTls,
    onStream: (stream: LinkStream) => void,
    onRefused: (peerName: string, reason: Error) => void,
  ): Promise<Listener>;
  /**
   * Connects the link. Failures: `peer-unreachable`, `secret-rejected`, `peer-foreign`, `peer-timeout`, `tls-failed`.
   */
  connectLink(address: Address, tls: LinkTls, timeoutMs: number): Promise<LinkStream>;
}

/** `host:port`, `[v6]:port`, or the path. */
export function formatAddress(address: Address): string {
  if (address.kind === 'unix') return address.path;
  if (address.kind === 'descriptor') return `fd:${address.descriptor}`;
  return address.host.includes(':') ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}
