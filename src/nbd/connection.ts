/**
 * One client, from its arrival until nothing of it is left.
 *
 * | phase | what arrives | leaves to |
 * | --- | --- | --- |
 * | `handshake` | options | `tls`, `transmission`, `ending` |
 * | `tls` | nothing: the stream is being replaced by an encrypted one | `handshake` |
 * | `transmission` | requests | `ending` |
 * | `ending` | nothing is listened to; our end is closed or about to be | `gone` |
 * | `gone` | the socket is closed; requests may still be in flight | |
 *
 * A connection counts until the last of its requests has finished, also when the socket went long before.
 */
import { ProtocolError } from 'nbd-protocol';
import { messageOf } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import type { Clock, Timer } from '../io/clock.ts';
import type { ByteStream, StreamEvents } from '../io/network.ts';
import type { NbdTls } from '../secure/tls.ts';
import type { Budget } from './budget.ts';
import type { ExportTable } from './exports.ts';
import { describeForeign } from './foreign.ts';
import { Handshake, type HandshakeOutcome, type TlsPolicy } from './handshake.ts';
import { GREETING, type NbdLimits } from './limits.ts';
import { StallWatch } from './stall-watch.ts';
import { Transmission } from './transmission.ts';

/** What a connection tells about itself. */
export interface ConnectionStatus {
  readonly peer: string;
  readonly phase: 'handshake' | 'tls' | 'transmission' | 'ending' | 'gone';
  /** The export's name, once chosen. */
  readonly exportName: string | undefined;
  readonly encrypted: boolean;
  readonly identity: string | undefined;
  readonly ageMs: number;
  readonly requestsInFlight: number;
  readonly bytesInFlight: number;
  readonly bytesRead: number;
  readonly bytesWritten: number;
}

export interface ConnectionOptions {
  readonly exports: ExportTable;
  readonly tls: TlsPolicy;
  readonly nbdTls: NbdTls | undefined;
  readonly budget: Budget;
  /** See Transmission. */
  readonly partingBudget: Budget;
  readonly limits: NbdLimits;
  readonly clock: Clock;
  readonly log: Log;
  /** Nothing of the connection is left. Called once. */
  readonly gone: (connection: Connection) => void;
}

/** How long a client in the handshake may go on being told that the server is stopping. */
const HANDSHAKE_STOP_MS = 1_000;

const FIRST_BYTES = 16;

export class Connection {
  readonly #options: ConnectionOptions;
  readonly #log: Log;
  readonly #handshake: Handshake;
  readonly #sinceMs: number;
  #stream: ByteStream;
  #phase: ConnectionStatus['phase'] = 'handshake';
  #transmission: Transmission | undefined;
  #exportName: string | undefined;
  #isStopping = false;
  /** What the client sent first, to say what it looks like if it is not NBD. */
  #firstBytes = Buffer.alloc(0);
  /** Handshake, parting or linger: one at a time. */
  #timer: Timer | undefined;
  /** A payload holds room that others may wait for: its client must keep sending. */
  readonly #payloadWatch: StallWatch;
  /** So do replies: it must keep reading. */
  readonly #replyWatch: StallWatch;

  constructor(stream: ByteStream, options: ConnectionOptions) {
    this.#stream = stream;
    this.#options = options;
    this.#log = options.log.child({ peer: stream.peerName });
    this.#sinceMs = options.clock.nowMs();
    this.#handshake = new Handshake({
      exports: options.exports,
      tls: options.tls,
      optionsMax: options.limits.options,
      isStopping: () => this.#isStopping,
      send: (bytes) => this.#stream.write([bytes]),
    });
    const { clock, limits } = options;
    this.#payloadWatch = new StallWatch({
      clock,
      intervalMs: limits.payloadStallMs,
      progress: () => (this.#transmission?.isPayloadArriving ? this.#stream.bytesRead : undefined),
      stalled: () => this.#drop('it stopped in the middle of a request'),
    });
    this.#replyWatch = new StallWatch({
      clock,
      intervalMs: limits.replyStallMs,
      progress: () => (this.#transmission?.areRepliesWaiting ? this.#deliveredSize() : undefined),
      stalled: () => this.#drop('it does not read replies'),
    });
  }

  /** To be called in the turn in which the stream was handed over. */
  begin(): void {
    const { limits } = this.#options;
    this.#arm(limits.handshakeMs, () => this.#drop('the handshake took too long'));
    this.#stream.receive(this.#eventsOf(this.#stream));
    this.#stream.write([GREETING]);
  }

  status(): ConnectionStatus {
    return {
      peer: this.#stream.peerName,
      phase: this.#phase,
      exportName: this.#exportName,
      encrypted: this.#stream.encrypted,
      identity: this.#stream.identity,
      ageMs: this.#options.clock.nowMs() - this.#sinceMs,
      requestsInFlight: this.#transmission?.inFlightCount ?? 0,
      bytesInFlight: this.#transmission?.inFlightSize ?? 0,
      bytesRead: this.#stream.bytesRead,
      bytesWritten: this.#stream.bytesWritten,
    };
  }

  /** The server is stopping: finishes what is in flight, refuses the rest, then ends. */
  stop(): void {
    this.#isStopping = true;
    if (this.#phase === 'transmission') this.#transmission!.stop();
    else if (this.#phase !== 'gone') this.#arm(HANDSHAKE_STOP_MS, () => this.destroy());
  }

  /** Ends at once; what the volume is working on goes on. */
  destroy(): void {
    // Before anything else: no request may reach the volume any more, with or without a socket.
    const wasGone = this.#phase === 'gone';
    if (!wasGone) this.#phase = 'ending';
    this.#transmission?.cut();
    if (wasGone) return;
    // While TLS starts there is no stream to destroy: `#startTls` looks at the phase when it is through.
    this.#stream.destroy();
  }

  /** Events of a stream that has since been replaced by an encrypted one are ignored. */
  #eventsOf(stream: ByteStream): StreamEvents {
    const current = (action: () => void) => {
      if (this.#stream === stream) action();
    };
    return {
      data: (chunk) => {
        if (this.#stream === stream) this.#receive(chunk);
      },
      drain: () => current(() => this.#transmission?.drained()),
      end: () => current(() => this.#ended()),
      close: (reason) => current(() => this.#closed(reason)),
    };
  }

  #receive(chunk: Buffer): void {
    try {
      if (this.#phase === 'transmission') this.#transmission!.receive(chunk);
      else if (this.#phase === 'handshake') this.#receiveOptions(chunk);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#violated(error);
    }
  }

  #receiveOptions(chunk: Buffer): void {
    if (this.#firstBytes.length < FIRST_BYTES) {
      this.#firstBytes = Buffer.concat([this.#firstBytes, chunk.subarray(0, FIRST_BYTES - this.#firstBytes.length)]);
    }
    const outcome = this.#handshake.receive(chunk);
    if (outcome !== undefined) this.#follow(outcome);
    else if (this.#stream.queuedSize > this.#options.limits.handshakeUnread) this.#drop('it does not read replies');
  }

  #follow(outcome: HandshakeOutcome): void {
    switch (outcome.kind) {
      case 'transmission':
        this.#enterTransmission(outcome);
        break;
      case 'start-tls':
        void this.#startTls();
        break;
      case 'aborted':
        this.#log.debug({}, 'client left during the handshake');
        this.#end();
        break;
      case 'refused':
        this.#drop(outcome.reason);
        break;
    }
  }

  #enterTransmission(outcome: HandshakeOutcome & { kind: 'transmission' }): void {
    this.#timer?.cancel();
    this.#phase = 'transmission';
    this.#exportName = outcome.export.name;
    const { encrypted, identity } = this.#stream;
    this.#log.info({ export: this.#exportName, mode: outcome.mode, encrypted, identity }, 'client connected');
    this.#transmission = new Transmission({
      stream: this.#stream,
      export: outcome.export,
      mode: outcome.mode,
      contexts: outcome.contexts,
      budget: this.#options.budget,
      partingBudget: this.#options.partingBudget,
      limits: this.#options.limits,
      violated: (error) => this.#violated(error),
      payloadArriving: () => this.#payloadWatch.start(),
      repliesWaiting: () => this.#replyWatch.start(),
      parting: () => this.#watchParting(),
      done: () => this.#end(),
      finished: () => this.#options.gone(this),
    });
    if (this.#isStopping) this.#transmission.stop();
    if (outcome.rest.length > 0) this.#transmission.receive(outcome.rest);
  }

  /** The kernel says that the client has gone; what it left is read in no time, or something is wrong. */
  #watchParting(): void {
    this.#arm(this.#options.limits.lingerMs, () => {
      if (this.#transmission?.isParting) this.#drop('it has gone, but its end does not come');
    });
  }

  #deliveredSize(): number {
    return this.#stream.bytesWritten - this.#stream.undeliveredSize();
  }

  async #startTls(): Promise<void> {
    this.#phase = 'tls';
    const plain = this.#stream;
    let secure: ByteStream;
    try {
      secure = await plain.startTls(this.#options.nbdTls ?? {});
    } catch (error) {
      this.#log.warn({ err: error }, `TLS with the client failed: ${messageOf(error)}`);
      this.#closed(undefined);
      return;
    }
    if (this.#phase !== 'tls') {
      secure.destroy();
      this.#closed(undefined);
      return;
    }
    this.#stream = secure;
    this.#phase = 'handshake';
    this.#handshake.tlsStarted();
    secure.receive(this.#eventsOf(secure));
  }

  #ended(): void {
    if (this.#phase === 'transmission') this.#transmission!.ended();
    else this.#end();
  }

  /** Sends what is queued, then our end; a client that does not follow is cut off. */
  #end(): void {
    if (this.#phase === 'gone' || this.#phase === 'ending') return;
    this.#phase = 'ending';
    this.#stream.end();
    this.#arm(this.#options.limits.lingerMs, () => this.destroy());
  }

  #violated(error: ProtocolError): void {
    if (this.#phase === 'transmission') {
      this.#drop(`it broke the protocol: ${error.message}`);
    } else {
      this.#drop(`it does not speak NBD (${error.message}); it sent ${describeForeign(this.#firstBytes)}`);
    }
  }

  #drop(reason: string): void {
    this.#log.warn({}, `client disconnected: ${reason}`);
    this.destroy();
  }

  #closed(reason: Error | undefined): void {
    if (this.#phase === 'gone') return;
    this.#phase = 'gone';
    this.#timer?.cancel();
    this.#payloadWatch.cancel();
    this.#replyWatch.cancel();
    if (this.#transmission === undefined) {
      this.#log.debug({ err: reason }, 'client gone before it chose an export');
      this.#options.gone(this);
      return;
    }
    const transmission = this.#transmission;
    transmission.closed(this.#stream.takeUnread());
    const { bytesRead, bytesWritten } = this.#stream;
    const { inFlightCount: requestsInFlight, droppedCount: requestsDropped } = transmission;
    const counts = { bytesRead, bytesWritten, requestsInFlight, requestsDropped };
    this.#log.info({ export: this.#exportName, ...counts, err: reason }, 'client gone');
  }

  #arm(delayMs: number, action: () => void): void {
    this.#timer?.cancel();
    this.#timer = this.#options.clock.after(delayMs, action);
  }
}
