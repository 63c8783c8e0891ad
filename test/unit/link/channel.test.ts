import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import type { ByteStream, StreamEvents } from '../../../src/io/network.ts';
import { Channel, type ChannelHandlers, DEFAULT_TIMING } from '../../../src/link/channel.ts';
import { encodeFrame, type Frame, FrameDecoder, FrameType, type FrameTypeCode } from '../../../src/link/frame.ts';
import { encodeRefused } from '../../../src/link/messages.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { MemoryStream } from '../../support/memory-network.ts';

const TIMING = { pingIntervalMs: 1_000, timeoutMs: 10_000 };
const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/** A stream whose peer is the test: what the channel sends is decoded, what the peer says arrives at once. */
class ScriptedStream implements ByteStream {
  readonly peerName = 'scripted';
  readonly identity = 'nbdtwin';
  readonly encrypted = true;
  queuedSize = 0;
  readonly bytesWritten = 0;
  readonly bytesRead = 0;
  readonly calls: string[] = [];
  readonly sent: Frame[] = [];
  writable = true;
  readonly #decoder = new FrameDecoder();
  #events: StreamEvents | undefined;

  receive(events: StreamEvents): void {
    this.#events = events;
  }

  write(chunks: readonly Uint8Array[]): boolean {
    for (const chunk of chunks) this.#decoder.push(Buffer.from(chunk));
    for (let frame = this.#decoder.next(); frame !== undefined; frame = this.#decoder.next()) this.sent.push(frame);
    return this.writable;
  }

  receiveNow(): number {
    return 0;
  }

  pause(): void {
    this.calls.push('pause');
  }

  resume(): void {
    this.calls.push('resume');
  }

  takeUnread(): undefined {}

  end(): void {
    this.calls.push('end');
  }

  undeliveredSize(): number {
    return 0;
  }

  peerGone(): boolean {
    return this.calls.includes('destroy');
  }

  destroy(): void {
    if (!this.calls.includes('destroy')) this.calls.push('destroy');
  }

  startTls(): Promise<ByteStream> {
    throw new Error('the link is TLS already');
  }

  says(...frames: Buffer[]): void {
    this.#events!.data(Buffer.concat(frames));
  }

  ends(): void {
    this.#events!.end();
  }

  closes(reason?: Error): void {
    this.#events!.close(reason);
  }

  drains(): void {
    this.#events!.drain();
  }

  sentTypes(): FrameTypeCode[] {
    return this.sent.map((frame) => frame.type);
  }
}

/** What the handlers were told, in order. */
class Told implements ChannelHandlers {
  readonly events: string[] = [];
  reason: Failure | undefined;
  onFrame: (frame: Frame) => void = () => undefined;

  frame(frame: Frame): void {
    this.events.push(`frame ${frame.type}`);
    this.onFrame(frame);
  }
  batch(): void {
    this.events.push('batch');
  }
  drain(): void {
    this.events.push('drain');
  }
  closed(reason: Failure | undefined): void {
    this.events.push(`closed ${reason?.code ?? 'cleanly'}`);
    this.reason = reason;
  }
  pinged(sequence: number, length: number): void {
    this.events.push(`pinged ${sequence} ${length}`);
  }
  pingValues(): { sequence: number; length: number } {
    return { sequence: 7, length: 8 };
  }
}

function opening() {
  const clock = new ManualClock();
  const stream = new ScriptedStream();
  const channel = new Channel(stream, clock, TIMING);
  return { clock, stream, channel };
}

function open() {
  const parts = opening();
  const told = new Told();
  parts.channel.open(told);
  told.events.length = 0;
  return { ...parts, told };
}

const ack = encodeFrame(FrameType.ACK, { payload: Buffer.alloc(32) });
const zero = encodeFrame(FrameType.ZERO, { sequence: 1, length: 4096 });
const goodbye = encodeFrame(FrameType.GOODBYE);

function code(of: string): unknown {
  return expect.objectContaining({ code: of });
}

describe('liveness of a channel', () => {
  it('does not give up under 10 s by default', () => {
    expect(DEFAULT_TIMING.timeoutMs).toBeGreaterThanOrEqual(10_000);
  });

  it('sends a ping with its values every interval', () => {
    const { clock, stream } = open();
    for (let second = 1; second <= 3; second += 1) {
      clock.advance(1_000);
      expect(stream.sent.length).toBe(second);
      expect(stream.sent.at(-1)).toMatchObject({ type: FrameType.PING, sequence: 7, length: 8 });
    }
  });

  it('pings while a session opens, too', () => {
    const { clock, stream } = opening();
    clock.advance(1_000);
    expect(stream.sent).toMatchObject([{ type: FrameType.PING, sequence: 0, length: 0 }]);
  });

  it('answers a ping and tells its values; a pong is told to nobody', () => {
    const { stream, told } = open();
    stream.says(encodeFrame(FrameType.PING, { sequence: 3, length: 4 }), encodeFrame(FrameType.PONG));
    expect(stream.sentTypes()).toEqual([FrameType.PONG]);
    expect(told.events).toEqual(['pinged 3 4', 'batch']);
  });

  it('ends after silence longer than the timeout, and not before', () => {
    const { clock, stream, told } = open();
    clock.advance(10_000);
    expect(told.events).toEqual([]);
    clock.advance(1_000);
    expect(told.events).toEqual(['closed peer-timeout']);
    expect(stream.calls).toEqual(['destroy']);
  });

  it('takes any bytes for life, also half a frame', () => {
    const { clock, stream, told } = open();
    for (const byte of zero) {
      clock.advance(9_000);
      stream.says(Buffer.of(byte));
    }
    expect(told.events.filter((event) => event !== 'batch')).toEqual([`frame ${FrameType.ZERO}`]);
  });

  it('does not hold a stall of our own process against the peer', () => {
    const { clock, stream, told } = open();
    clock.advance(500);
    clock.stall(60_000);
    expect(told.events).toEqual([]);
    clock.advance(9_000);
    stream.says(encodeFrame(FrameType.PONG));
    clock.advance(9_000);
    expect(told.events).toEqual(['batch']);
    clock.advance(3_000);
    expect(told.events).toEqual(['batch', 'closed peer-timeout']);
  });

  it('does not count the time in which we did not read', () => {
    const { clock, stream, channel, told } = open();
    channel.pauseReading();
    channel.pauseReading();
    clock.advance(100_000);
    expect(told.events).toEqual([]);
    channel.resumeReading();
    channel.resumeReading();
    expect(stream.calls).toEqual(['pause', 'resume']);
    clock.advance(10_000);
    expect(told.events).toEqual([]);
    clock.advance(1_500);
    expect(told.events).toEqual(['closed peer-timeout']);
  });

  it('asks for life: any bytes say yes, silence and the end say no', async () => {
    const { clock, stream, channel } = open();
    const first = channel.answersPing(5_000);
    expect(stream.sentTypes()).toEqual([FrameType.PING]);
    stream.says(encodeFrame(FrameType.PONG));
    expect(await first).toBe(true);
    const second = channel.answersPing(5_000);
    clock.advance(5_000);
    expect(await second).toBe(false);
    const third = channel.answersPing(5_000);
    stream.closes();
    expect(await third).toBe(false);
    expect(await channel.answersPing(5_000)).toBe(false);
  });
});

describe('frames of a channel', () => {
  it('go to the handlers in order, and a batch ends each chunk', () => {
    const { stream, told } = open();
    stream.says(zero, ack);
    stream.says(zero.subarray(0, 5));
    stream.says(zero.subarray(5));
    const [z, a] = [`frame ${FrameType.ZERO}`, `frame ${FrameType.ACK}`];
    expect(told.events).toEqual([z, a, 'batch', 'batch', z, 'batch']);
  });

  it('may be large once it is open', () => {
    const parts = opening();
    const large = encodeFrame(FrameType.WRITE, { sequence: 1, length: 70_000, payload: Buffer.alloc(70_000) });
    const told = new Told();
    parts.channel.open(told);
    parts.stream.says(large);
    expect(told.events).toContain(`frame ${FrameType.WRITE}`);
    const early = opening();
    const taken = early.channel.take(1_000);
    early.stream.says(large);
    return expect(taken).rejects.toEqual(code('frame-invalid'));
  });

  it('that are malformed refuse the peer', () => {
    const { stream, told } = open();
    stream.says(Buffer.alloc(32, 0xff));
    expect(told.events).toEqual(['closed frame-invalid']);
    expect(stream.sent.at(-1)!.type).toBe(FrameType.REFUSED);
    expect(stream.calls).toEqual(['end']);
  });

  it('whose handler throws a Failure refuse the peer with it, and later ones are not handled', () => {
    const { clock, stream, told, channel } = open();
    told.onFrame = () => {
      throw new Failure('frame-invalid', 'not that one');
    };
    stream.says(zero, zero);
    stream.says(zero);
    expect(told.events).toEqual([`frame ${FrameType.ZERO}`, 'closed frame-invalid']);
    expect(stream.sent.at(-1)!.payload.toString()).toBe('frame-invalid\0not that one');
    expect(channel.send([zero])).toBe(false);
    expect(stream.sent.length).toBe(1);
    // The refusal gets a moment to arrive.
    expect(stream.calls).toEqual(['end']);
    clock.advance(1_000);
    expect(stream.calls).toEqual(['end', 'destroy']);
  });

  it('whose handler has a bug end the process', () => {
    const { stream, told } = open();
    told.onFrame = () => {
      throw new TypeError('a bug');
    };
    expect(() => stream.says(zero)).toThrow('a bug');
  });

  it('from a peer that goes on asking and does not read the answers end the channel', () => {
    const { stream, told } = open();
    stream.queuedSize = 64 * 2 ** 20;
    stream.says(encodeFrame(FrameType.PING));
    expect(told.reason).toBeUndefined();
    stream.queuedSize += 32;
    stream.says(encodeFrame(FrameType.PING));
    expect(told.reason?.code).toBe('frame-invalid');
    expect(stream.calls).toEqual(['destroy']);
  });

  it('tell when the stream takes more', () => {
    const { stream, told, channel } = open();
    stream.writable = false;
    expect(channel.send([zero, ack])).toBe(false);
    expect(stream.sentTypes()).toEqual([FrameType.ZERO, FrameType.ACK]);
    stream.drains();
    expect(told.events).toEqual(['drain']);
  });
});

describe('the opening of a channel', () => {
  it('takes frames one at a time, whether they came before or after the question', async () => {
    const { stream, channel } = opening();
    stream.says(zero, ack);
    expect((await channel.take(1_000)).type).toBe(FrameType.ZERO);
    expect((await channel.take(1_000)).type).toBe(FrameType.ACK);
    const later = channel.take(1_000);
    stream.says(encodeFrame(FrameType.PING), zero);
    expect((await later).type).toBe(FrameType.ZERO);
  });

  it('ends with peer-timeout when no frame comes in time, pings notwithstanding', async () => {
    const { clock, stream, channel } = opening();
    const taken = channel.take(5_000);
    clock.advance(2_500);
    stream.says(encodeFrame(FrameType.PING));
    clock.advance(2_500);
    await expect(taken).rejects.toEqual(code('peer-timeout'));
    expect(channel.ended).toBe(true);
    await expect(channel.take(5_000)).rejects.toEqual(code('peer-timeout'));
  });

  it('forgets the timeout of a frame that came', async () => {
    const { clock, stream, channel } = opening();
    const taken = channel.take(5_000);
    stream.says(zero);
    await taken;
    clock.advance(6_000);
    expect(channel.ended).toBe(false);
  });

  it('ends with the reason of the loss while a frame is awaited', async () => {
    const { stream, channel } = opening();
    const taken = channel.take(5_000);
    stream.closes(new Error('ECONNRESET'));
    await expect(taken).rejects.toEqual(code('connection-lost'));
  });

  it('holds at most 16 frames that nobody has taken', () => {
    const { stream, channel } = opening();
    stream.says(...Array.from({ length: 16 }, () => zero));
    expect(channel.ended).toBe(false);
    stream.says(zero);
    expect(channel.ended).toBe(true);
    expect(stream.sent.at(-1)!.payload.toString()).toContain('frame-invalid');
  });

  it('hands frames that nobody took to the handlers', () => {
    const { stream, channel } = opening();
    stream.says(zero, ack);
    const told = new Told();
    channel.open(told);
    expect(told.events).toEqual([`frame ${FrameType.ZERO}`, `frame ${FrameType.ACK}`, 'batch']);
  });

  it('hands nothing more to the handlers once one of those frames was refused', () => {
    const { stream, channel } = opening();
    stream.says(zero, ack);
    const told = new Told();
    told.onFrame = () => {
      throw new Failure('frame-invalid', 'no');
    };
    channel.open(told);
    expect(told.events).toEqual([`frame ${FrameType.ZERO}`, 'closed frame-invalid']);
  });

  it('knows a refusal that came right behind the frame taken last', async () => {
    const refused = encodeRefused('mirror-shutting-down', 'stopping');
    for (const ended of [false, true]) {
      const { stream, channel } = opening();
      const taken = channel.take(1_000);
      stream.says(ack, refused);
      if (ended) stream.ends();
      await taken;
      const told = new Told();
      channel.open(told);
      expect(told.events).toEqual(['closed mirror-shutting-down']);
    }
  });

  it('that has ended already tells so', () => {
    const { stream, channel } = opening();
    stream.closes();
    const told = new Told();
    channel.open(told);
    expect(told.events).toEqual(['closed connection-lost']);
  });
});

describe('the end of a channel', () => {
  it('is clean after the goodbye of the peer', () => {
    const { stream, told, channel } = open();
    stream.says(zero, goodbye);
    expect(channel.ended).toBe(false);
    stream.ends();
    expect(told.events).toEqual([`frame ${FrameType.ZERO}`, 'batch', 'closed cleanly']);
    expect(stream.calls).toEqual(['end']);
    stream.closes();
    expect(told.events.length).toBe(3);
  });

  it('without a goodbye is a loss', () => {
    const { stream, told } = open();
    stream.ends();
    expect(told.events).toEqual(['closed connection-lost']);
    expect(told.reason!.message).toBe('the peer closed the connection');
  });

  it('in the middle of a frame is a loss that says so, even after a goodbye', () => {
    for (const before of [[], [goodbye]]) {
      for (const cut of [1, 31, 32, 40]) {
        const { stream, told } = open();
        const frame = encodeFrame(FrameType.WRITE, { sequence: 1, length: 9, payload: Buffer.alloc(9) });
        stream.says(...before, frame.subarray(0, cut));
        stream.ends();
        expect(told.reason).toMatchObject({ code: 'connection-lost' });
        expect(told.reason!.message).toContain('in the middle of a frame');
      }
    }
  });

  it('of our own says goodbye, ends our direction, and cuts a peer that never ends its own', () => {
    const { clock, stream, told, channel } = open();
    channel.close();
    expect(stream.sentTypes()).toEqual([FrameType.GOODBYE]);
    expect(told.events).toEqual(['closed cleanly']);
    expect(stream.calls).not.toContain('destroy');
    clock.advance(9_000);
    expect(stream.calls).not.toContain('destroy');
    stream.says(zero);
    clock.advance(2_000);
    expect(stream.calls).toContain('destroy');
    expect(told.events).toEqual(['closed cleanly']);
  });

  it('sends no ping afterwards', () => {
    const { clock, stream, channel } = open();
    channel.close();
    clock.advance(60_000);
    expect(stream.sentTypes()).toEqual([FrameType.GOODBYE]);
  });

  it('by a refusal of the peer has its code', () => {
    const { stream, told } = open();
    stream.says(encodeRefused('mirror-no-space', 'full'), zero);
    expect(told.events).toEqual(['closed mirror-no-space']);
    expect(stream.calls).toEqual(['destroy']);
  });

  it('by a loss keeps the failure or wraps the error', () => {
    const first = open();
    first.stream.closes(new Failure('peer-unreachable', 'no route'));
    expect(first.told.events).toEqual(['closed peer-unreachable']);
    const second = open();
    second.stream.closes(new Error('read ECONNRESET'));
    expect(second.told.reason!.message).toContain('ECONNRESET');
  });

  it('comes once, whatever else happens', () => {
    const { clock, stream, told, channel } = open();
    channel.destroy(new Failure('connection-lost', 'first'));
    channel.destroy(new Failure('peer-timeout', 'second'));
    channel.close();
    channel.refuse(new Failure('frame-invalid', 'third'));
    stream.says(zero);
    stream.ends();
    stream.closes(new Error('fourth'));
    clock.advance(60_000);
    expect(told.events).toEqual(['closed connection-lost']);
    expect(stream.sent).toEqual([]);
  });
});

describe('two channels over a stream', () => {
  it('open, talk, and end cleanly on both sides', async () => {
    const [left, right] = MemoryStream.pair();
    const clock = new ManualClock();
    const a = new Channel(left, clock, TIMING);
    const b = new Channel(right, clock, TIMING);
    a.send([zero]);
    expect((await b.take(1_000)).type).toBe(FrameType.ZERO);
    b.send([ack]);
    expect((await a.take(1_000)).type).toBe(FrameType.ACK);
    const told = [new Told(), new Told()] as const;
    a.open(told[0]);
    b.open(told[1]);
    a.send([zero, zero]);
    a.close();
    for (let count = 0; count < 10; count += 1) await turn();
    expect(told[0].events).toEqual(['batch', 'closed cleanly']);
    expect(told[1].events.filter((event) => event !== 'batch')).toEqual([
      `frame ${FrameType.ZERO}`,
      `frame ${FrameType.ZERO}`,
      'closed cleanly',
    ]);
    expect(a.bytesSent).toBe(b.bytesReceived);
    expect(b.bytesSent).toBe(32 + 32);
  });
});
