/** Digests asked of the mirror and not yet answered: replies may come in any order. */
import { Failure } from '../base/failure.ts';
import type { ScanResult } from '../io/scan-pool.ts';
import type { Channel } from '../link/channel.ts';
import { type DigestUnit, decodeDigestReply, digestUnitOf, encodeDigestRequest } from '../link/digests.ts';
import type { Frame } from '../link/frame.ts';

interface Asked {
  resolve(result: ScanResult): void;
  reject(reason: Failure): void;
}

/** Fewer than the mirror accepts. */
const OPEN_MAX = 64;

export class Questions {
  readonly #channel: Channel;
  readonly #size: number;
  /** By what was asked; the same may be asked again before an answer to an abandoned question has come. */
  readonly #asked = new Map<string, Asked[]>();
  #openCount = 0;
  /** Asked in this turn: they go out together. */
  #unsent: Buffer[] = [];
  readonly #waiting: (() => void)[] = [];
  #ended: Failure | undefined;

  /** `size` of the disk, in bytes. */
  constructor(channel: Channel, size: number) {
    this.#channel = channel;
    this.#size = size;
  }

  /** The mirror's digests of a range. Rejects with `connection-lost` when the session ends. */
  async ask(offset: number, length: number, unit: DigestUnit): Promise<ScanResult> {
    while (this.#openCount >= OPEN_MAX && this.#ended === undefined) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    if (this.#ended !== undefined) throw this.#ended;
    return new Promise<ScanResult>((resolve, reject) => {
      const key = keyOf(unit, offset, length);
      const others = this.#asked.get(key);
      if (others === undefined) this.#asked.set(key, [{ resolve, reject }]);
      else others.push({ resolve, reject });
      this.#openCount += 1;
      this.#send(encodeDigestRequest(offset, length, unit));
    });
  }

  /** A DIGEST_REPLY. Failure: `frame-invalid`. */
  answered(frame: Frame): void {
    const key = keyOf(digestUnitOf(frame, this.#size), frame.offset, frame.length);
    const same = this.#asked.get(key);
    const asked = same?.shift();
    if (same === undefined || asked === undefined)
      throw new Failure('frame-invalid', 'an answer to a question that was not asked');
    if (same.length === 0) this.#asked.delete(key);
    this.#openCount -= 1;
    asked.resolve(decodeDigestReply(frame, this.#size));
    this.#waiting.shift()?.();
  }

  #send(question: Buffer): void {
    this.#unsent.push(question);
    if (this.#unsent.length > 1) return;
    queueMicrotask(() => {
      const questions = this.#unsent;
      this.#unsent = [];
      this.#channel.send(questions);
    });
  }

  end(): void {
    this.#ended = new Failure('connection-lost', 'the session ended');
    for (const asked of [...this.#asked.values()].flat()) asked.reject(this.#ended);
    this.#asked.clear();
    for (const wake of this.#waiting.splice(0)) wake();
  }
}

function keyOf(unit: number, offset: number, length: number): string {
  return `${unit}:${offset}:${length}`;
}
