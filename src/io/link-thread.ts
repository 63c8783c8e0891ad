/**
 * Entry of the thread of the link: connects, encrypts, decrypts, and passes bytes on in both directions.
 *
 * What is sent comes through a ring and stays there until the kernel has it. What is received goes over as messages, up to
 * DATA_SIZE_MAX that the event loop has not taken.
 */
import { parentPort } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { isFailure, messageOf } from '../base/failure.ts';
import { RingReader } from './byte-ring.ts';
import {
  DATA_SIZE_MAX,
  type FromThread,
  MESSAGE_COST_SIZE,
  RING_LOW_SIZE,
  type ToldFailure,
  type ToThread,
} from './link-thread-messages.ts';
import type { ByteStream } from './network.ts';
import { connectLink } from './node-link.ts';

const port = parentPort;
assert(port !== null, 'link-thread runs as a thread');

function say(message: FromThread, transfer: ArrayBuffer[] = []): void {
  port!.postMessage(message, transfer);
}

function told(error: Error): ToldFailure {
  return { code: isFailure(error) ? error.code : 'connection-lost', message: messageOf(error) };
}

class Carrier {
  readonly #id: number;
  readonly #stream: ByteStream;
  readonly #ring: RingReader;
  /** Bytes that the event loop has not taken, messages included. */
  #untakenSize = 0;

  constructor(id: number, stream: ByteStream, ring: SharedArrayBuffer) {
    this.#id = id;
    this.#stream = stream;
    this.#ring = new RingReader(ring);
    stream.receive({
      data: (chunk) => {
        // Of its own: what Node lends may share its memory with other chunks.
        const bytes = new Uint8Array(chunk);
        this.#untakenSize += bytes.length + MESSAGE_COST_SIZE;
        if (this.#untakenSize > DATA_SIZE_MAX) stream.pause();
        say({ type: 'data', id, bytes }, [bytes.buffer]);
      },
      drain: () => undefined,
      end: () => say({ type: 'end', id }),
      close: (reason) => {
        carriers.delete(id);
        say({ type: 'closed', id, failure: reason === undefined ? undefined : told(reason) });
      },
    });
  }

  take(message: ToThread): void {
    switch (message.type) {
      case 'wake':
        this.#send();
        return;
      case 'end':
        this.#send();
        this.#stream.end();
        return;
      case 'destroy':
        this.#stream.destroy();
        return;
      case 'taken':
        this.#untakenSize -= message.size;
        if (this.#untakenSize <= DATA_SIZE_MAX) this.#stream.resume();
        return;
      default:
        assert(false, 'a stream connects once');
    }
  }

  #send(): void {
    do {
      for (let views = this.#ring.take(); views.length > 0; views = this.#ring.take()) {
        const size = views.reduce((sum, view) => sum + view.length, 0);
        this.#stream.write(views, () => this.#sent(size));
      }
    } while (!this.#ring.sleep());
  }

  #sent(size: number): void {
    if (this.#ring.free(size, RING_LOW_SIZE)) say({ type: 'room', id: this.#id });
  }
}

const carriers = new Map<number, Carrier>();

async function connect({ id, address, key, timeoutMs, ring }: ToThread & { type: 'connect' }): Promise<void> {
  try {
    const stream = await connectLink(address, { keys: [key] }, timeoutMs);
    say({ type: 'connected', id, peerName: stream.peerName, identity: stream.identity });
    const carrier = new Carrier(id, stream, ring);
    carriers.set(id, carrier);
    carrier.take({ type: 'wake', id });
  } catch (error) {
    if (!isFailure(error)) throw error;
    say({ type: 'failed', id, failure: told(error) });
  }
}

port.on('message', (message: ToThread) => {
  if (message.type === 'connect') void connect(message);
  // What is said to a stream that has just gone is said too late.
  else carriers.get(message.id)?.take(message);
});
