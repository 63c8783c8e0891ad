/**
 * The clients of one incarnation of the primary: several connections that read, write, zero, trim and flush, overlapping
 * freely, as many requests in flight as the profile says.
 *
 * They check what a client can check: a read of bytes that nobody is changing shows what the model has; no request fails
 * while nothing is wrong with the disk; none takes longer than the local disk can account for, whatever the mirror does
 * (G7). And they keep what the oracle needs: which sequence is durable for certain (`floor`), and which mutations are in
 * flight.
 */
import { isFailure } from '../../src/base/failure.ts';
import type { Volume } from '../../src/volume/volume.ts';
import type { Operation, Run } from './history.ts';
import type { Loose } from './legality.ts';
import type { Profile } from './profile.ts';
import type { SeededRandom } from './random.ts';
import type { Owner, Timeline } from './timeline.ts';

/** Bytes of chance to cut the data of writes from: making it anew for each would take most of the time. */
const POOL_SIZE = 1 << 20;

export interface ClientEvents {
  trace(text: string): void;
  /** Something that must not be. */
  wrong(what: string): void;
  /** The local disk has faults at present: requests may fail. */
  mayFail(): boolean;
  /** A FLUSH or FUA was answered: everything up to there is durable wherever the mode says. */
  durable(sequence: number): void;
  /** A mutation was answered that has this sequence. */
  mutated(sequence: number): void;
  /** How long a request may take at most. */
  patienceMs(): number;
}

/** A mutation in flight. */
interface Mutation extends Loose {
  /** Once the ledger has given it one, as far as it can be told from others of the same range. */
  sequence: number | undefined;
}

interface Reading {
  readonly offset: number;
  readonly length: number;
  disturbed: boolean;
}

export class Clients {
  readonly #volume: Volume;
  readonly #run: Run;
  readonly #profile: Profile;
  readonly #random: SeededRandom;
  readonly #timeline: Timeline;
  readonly #owner: Owner;
  readonly #events: ClientEvents;
  readonly #pool: Buffer;
  readonly #mutating = new Set<Mutation>();
  readonly #reading = new Set<Reading>();
  readonly #issuedMs = new Map<number, number>();
  #nextId = 0;
  #stopped = false;
  #inFlight = 0;
  #idle: (() => void) | undefined;
  /** Everything up to here is durable on the primary: a flush or FUA was answered. */
  floor: number;
  /** A flush failed: none will succeed until the primary is started anew. */
  flushFailed = false;
  thinkFactor = 1;
  answered = 0;

  constructor(
    volume: Volume,
    run: Run,
    profile: Profile,
    random: SeededRandom,
    pool: Buffer,
    timeline: Timeline,
    owner: Owner,
    events: ClientEvents,
  ) {
    this.#volume = volume;
    this.#run = run;
    this.#profile = profile;
    this.#random = random;
    this.#pool = pool;
    this.#timeline = timeline;
    this.#owner = owner;
    this.#events = events;
    this.floor = run.baseSequence;
  }

  static pool(random: SeededRandom): Buffer {
    const pool = Buffer.alloc(POOL_SIZE);
    for (let at = 0; at < POOL_SIZE; at += 4) pool.writeUInt32LE(random.next(), at);
    return pool;
  }

  /** Mutations that were asked for and have not been answered. */
  get mutating(): Loose[] {
    return [...this.#mutating];
  }

  start(): void {
    for (let slot = 0; slot < this.#profile.connections * this.#profile.depth; slot += 1) this.#think();
  }

  /** No new requests; resolves when those in flight are answered. */
  async stop(): Promise<void> {
    this.#stopped = true;
    if (this.#inFlight === 0) return;
    await new Promise<void>((resolve) => {
      this.#idle = resolve;
    });
  }

  /** The ledger gave this operation its sequence. */
  sequenced({ sequence, offset, length, data }: Operation): void {
    const alike = [...this.#mutating].filter((other) =>
      data === undefined
        ? other.data === undefined && other.sequence === undefined && other.offset === offset && other.length === length
        : other.data === data,
    );
    if (alike.length === 1) alike[0]!.sequence = sequence;
  }

  /** Complains about requests that take too long. */
  checkPatience(): void {
    const limitMs = this.#timeline.nowMs - this.#events.patienceMs();
    for (const [id, sinceMs] of this.#issuedMs) {
      if (sinceMs < limitMs) this.#events.wrong(`request ${id} has waited since ${sinceMs.toFixed(1)} ms`);
    }
  }

  #think(): void {
    const delayMs = this.#random.exponential(this.#profile.thinkMs * this.thinkFactor);
    this.#timeline.after(delayMs, () => this.#issue(), this.#owner);
  }

  #issue(): void {
    if (this.#stopped) return;
    const { flushShare, fuaShare, zeroShare, trimShare, readShare } = this.#profile;
    const random = this.#random;
    const luck = random.uniform();
    const fua = random.chance(fuaShare);
    const options = { fua };
    if (luck < flushShare) {
      const covered = this.#run.sequence;
      this.#request(
        'flush',
        () => this.#volume.flush(),
        () => this.#durable(covered),
      );
      return;
    }
    const { offset, length } = this.#range();
    if (luck < flushShare + readShare) {
      this.#read(offset, length);
    } else if (luck < flushShare + readShare + zeroShare) {
      const allocate = random.chance(0.3);
      this.#mutate({ offset, length, data: undefined }, `zero ${offset}+${length}`, fua, () =>
        this.#volume.zero(offset, length, { fua, allocate, fast: false }),
      );
    } else if (luck < flushShare + readShare + zeroShare + trimShare) {
      this.#mutate({ offset, length, data: undefined }, `trim ${offset}+${length}`, fua, async () => {
        await this.#volume.trim(offset, length, options);
      });
    } else {
      const data = this.#data(length);
      this.#mutate({ offset, length, data }, `write ${offset}+${length}`, fua, () =>
        this.#volume.write(offset, data, options),
      );
    }
  }

  #range(): { offset: number; length: number } {
    const random = this.#random;
    const { hot, diskSize, writeSizeMax } = this.#profile;
    const area = random.chance(0.92) ? random.pick(hot) : { offset: 0, length: diskSize };
    const style = random.uniform();
    const unit = style < 0.5 ? 4096 : style < 0.8 ? 512 : 1;
    const wanted = style < 0.9 ? 1 + random.below(Math.max(1, writeSizeMax / unit)) * unit : 1 + random.below(16);
    const offset = area.offset + unit * random.below(Math.max(1, Math.floor(area.length / unit)));
    const rounded = unit === 1 ? wanted : Math.max(unit, wanted - (wanted % unit));
    return { offset, length: Math.max(1, Math.min(rounded, diskSize - offset)) };
  }

  #data(length: number): Buffer {
    const random = this.#random;
    const luck = random.uniform();
    if (luck < 0.06) {
      const data = Buffer.alloc(length);
      if (luck < 0.05) data[length - 1] = 1 + random.below(255);
      return data;
    }
    const at = random.below(POOL_SIZE - length);
    // Memory of its own: a block of Node's that others share would count with what they happen to have left of it.
    const data = Buffer.allocUnsafeSlow(length);
    this.#pool.copy(data, 0, at, at + length);
    return data;
  }

  #read(offset: number, length: number): void {
    const target = Buffer.alloc(length);
    const reading: Reading = { offset, length, disturbed: false };
    reading.disturbed = [...this.#mutating].some((other) => overlap(other, reading));
    this.#reading.add(reading);
    this.#request(
      `read ${offset}+${length}`,
      () => this.#volume.read(target, offset),
      () => {
        this.#reading.delete(reading);
        if (reading.disturbed || target.equals(this.#run.current.slice(offset, length))) return;
        this.#events.wrong(`a read of ${length} bytes at ${offset} shows something else than was written`);
      },
      () => this.#reading.delete(reading),
    );
  }

  #mutate(range: Loose, text: string, fua: boolean, call: () => void | Promise<void>): void {
    const mutation: Mutation = { ...range, sequence: undefined };
    for (const reading of this.#reading) if (overlap(mutation, reading)) reading.disturbed = true;
    this.#mutating.add(mutation);
    this.#request(
      fua ? `${text} fua` : text,
      call,
      () => {
        this.#mutating.delete(mutation);
        const { sequence } = mutation;
        if (sequence === undefined) return;
        this.#events.mutated(sequence);
        if (fua) this.#durable(sequence);
      },
      () => this.#mutating.delete(mutation),
    );
  }

  #durable(sequence: number): void {
    // What follows must not get into the same epoch, or a crash of the mirror could keep it and lose this.
    const { barriers, baseSequence } = this.#run;
    if (sequence > baseSequence && (barriers.at(-1) ?? baseSequence) < sequence) {
      this.#events.wrong(`a flush of everything up to ${sequence} is answered with no barrier behind it`);
    }
    this.floor = Math.max(this.floor, sequence);
    this.#events.durable(sequence);
  }

  #request(
    text: string,
    call: () => void | Promise<void>,
    succeeded: () => void,
    failed: () => void = () => undefined,
  ): void {
    this.#nextId += 1;
    const id = this.#nextId;
    this.#events.trace(`#${id} ${text}`);
    this.#inFlight += 1;
    let pending: void | Promise<void>;
    try {
      pending = call();
    } catch (error) {
      pending = Promise.reject(error instanceof Error ? error : new Error(String(error)));
    }
    if (pending === undefined) {
      this.#answered(succeeded);
      return;
    }
    this.#issuedMs.set(id, this.#timeline.nowMs);
    pending.then(
      () => {
        this.#issuedMs.delete(id);
        if (!this.#owner.alive) return;
        this.#events.trace(`#${id} done, ${this.#run.sequence}`);
        this.#answered(succeeded);
      },
      (error: unknown) => {
        this.#issuedMs.delete(id);
        if (!this.#owner.alive) return;
        if (!isFailure(error)) throw error;
        this.#events.trace(`#${id} ${error.code}: ${error.message}`);
        if (!this.#events.mayFail()) this.#events.wrong(`#${id} ${text} fails for no reason: ${error.message}`);
        if (text === 'flush' || text.endsWith('fua')) this.flushFailed = true;
        this.#answered(failed);
      },
    );
  }

  #answered(settle: () => void): void {
    this.#inFlight -= 1;
    this.answered += 1;
    settle();
    if (this.#inFlight === 0) this.#idle?.();
    if (!this.#stopped) this.#think();
  }
}

function overlap(a: { offset: number; length: number }, b: { offset: number; length: number }): boolean {
  return a.offset < b.offset + b.length && b.offset < a.offset + a.length;
}
