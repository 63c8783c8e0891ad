import {
  ClientFlag,
  encodeClientFlags,
  HandshakeClientDecoder,
  type HandshakeServerMessage,
  type OptionReplyMessage,
} from 'nbd-protocol';
import { expect, onTestFinished } from 'vitest';
import type { ByteStream } from '../../src/io/network.ts';
import { connectNbd, type NbdClient, type NbdClientOptions } from '../../src/nbd/client.ts';
import type { Export } from '../../src/nbd/exports.ts';
import type { NbdLimits } from '../../src/nbd/limits.ts';
import { type NbdServer, type NbdServerOptions, startNbdServer } from '../../src/nbd/server.ts';
import { DiskVolume } from '../../src/volume/disk-volume.ts';
import { OrderedVolume } from '../../src/volume/ordered-volume.ts';
import { ManualClock } from './manual-clock.ts';
import { MemoryDisk } from './memory-disk.ts';
import { type LogLine, memoryLog } from './memory-log.ts';
import { MemoryNetwork } from './memory-network.ts';

const ADDRESS = { kind: 'unix', path: 'nbd' } as const;

export interface InMemory {
  readonly server: NbdServer;
  readonly network: MemoryNetwork;
  readonly clock: ManualClock;
  readonly lines: LogLine[];
  /** Under the export `disk`, when no exports were given. */
  readonly disk: MemoryDisk;
  /** A client past the handshake. */
  connect(options?: Partial<NbdClientOptions>): Promise<NbdClient>;
  /** A bare connection, for what no proper client does. */
  connectRaw(): Promise<RawPeer>;
}

export interface InMemoryOptions extends Partial<Pick<NbdServerOptions, 'tls' | 'nbdTls'>> {
  readonly size?: number;
  readonly readOnly?: boolean;
  readonly exports?: readonly Export[];
  readonly limits?: Partial<NbdLimits>;
}

/** A server with one export `disk`, described as `a disk` and default, over a disk and a network in memory. */
export async function serveInMemory(options: InMemoryOptions = {}): Promise<InMemory> {
  const disk = new MemoryDisk(options.size ?? 1024 * 1024);
  const network = new MemoryNetwork();
  const clock = new ManualClock();
  const { log, lines } = memoryLog();
  const volume = new OrderedVolume(new DiskVolume(disk, { readOnly: options.readOnly ?? false }));
  const server = await startNbdServer({
    network,
    clock,
    log,
    exports: options.exports ?? [{ name: 'disk', description: 'a disk', volume, isDefault: true }],
    listeners: [ADDRESS],
    tls: options.tls ?? 'off',
    nbdTls: options.nbdTls,
    limits: options.limits ?? {},
  });
  onTestFinished(async () => {
    const closed = server.close(0);
    clock.advance(0);
    await closed;
  });
  return {
    server,
    network,
    clock,
    lines,
    disk,
    connect: (more = {}) => connectNbd({ network, address: ADDRESS, exportName: 'disk', ...more }),
    connectRaw: async () => new RawPeer(await network.connect(ADDRESS)),
  };
}

/** Lets everything that is ready happen: enough turns of the event loop for any exchange in these tests. */
export async function settle(turns = 50): Promise<void> {
  for (let turn = 0; turn < turns; turn += 1) await new Promise<void>((resolve) => setImmediate(resolve));
}

/** Waits, turn by turn, until a condition holds. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  for (let turn = 0; turn < 10_000; turn += 1) {
    if (condition()) return;
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
  expect.fail(`never happened: ${what}`);
}

/** A client that says exactly what the test tells it to. */
export class RawPeer {
  readonly stream: ByteStream;
  readonly #decoder = new HandshakeClientDecoder();
  #received = Buffer.alloc(0);
  isClosed = false;

  constructor(stream: ByteStream) {
    this.stream = stream;
    stream.receive({
      data: (chunk) => {
        this.#received = Buffer.concat([this.#received, chunk]);
        this.#decoder.push(chunk);
      },
      drain() {},
      end: () => stream.end(),
      close: () => {
        this.isClosed = true;
      },
    });
  }

  /** All bytes so far. */
  get received(): Buffer {
    return this.#received;
  }

  send(...chunks: Uint8Array[]): void {
    this.stream.write(chunks);
  }

  /** Reads the greeting and answers it. */
  async greet(flags: number = ClientFlag.FIXED_NEWSTYLE | ClientFlag.NO_ZEROES): Promise<void> {
    await this.next();
    this.send(encodeClientFlags(flags));
  }

  expectExportNameReply(noZeroes: boolean): void {
    this.#decoder.expectExportNameReply(noZeroes);
  }

  async next(): Promise<HandshakeServerMessage> {
    let message: HandshakeServerMessage | undefined;
    await until(() => {
      message ??= this.#decoder.next();
      return message !== undefined;
    }, 'a message of the server');
    return message!;
  }

  /** Sends an option; its replies up to the final one. */
  async ask(option: Uint8Array): Promise<OptionReplyMessage[]> {
    this.send(option);
    const replies: OptionReplyMessage[] = [];
    for (;;) {
      const message = (await this.next()) as OptionReplyMessage;
      replies.push(message);
      if (message.kind === 'ack' || message.kind === 'option-error') return replies;
    }
  }

  /** The final reply to an option, as `ack` or the error's number. */
  async answerTo(option: Uint8Array): Promise<'ack' | number> {
    const last = (await this.ask(option)).at(-1)!;
    return last.kind === 'option-error' ? last.type : 'ack';
  }

  /** Waits until the server has closed the connection. */
  async closed(): Promise<void> {
    await until(() => this.isClosed, 'the server closes the connection');
  }
}
