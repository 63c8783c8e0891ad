/** The client of the demonstration: writes through NBD, several requests at a time. */
import { KIB, MIB } from '../../base/units.ts';
import type { Clock } from '../../io/clock.ts';
import type { Disk } from '../../io/disk.ts';
import type { Random } from '../../io/random.ts';
import type { NbdClient } from '../../nbd/client.ts';
import { fileContent } from './material.ts';

const COPY_SIZE = MIB;
const DEPTH = 8;
/** An application writes small blocks here and there. */
const BLOCK_SIZES = [4 * KIB, 8 * KIB, 16 * KIB, 64 * KIB];
const BLOCK_ALIGNMENT = 4 * KIB;

/** Called with the bytes done so far. */
type OnProgress = (size: number) => void;

/** Bytes of `image` that are not holes. */
export function dataSize(image: Disk): number {
  let size = 0;
  for (const { offset, length } of dataPieces(image)) size += offset >= 0 ? length : 0;
  return size;
}

export interface CopyOptions {
  /** Bytes of the image that are not holes. */
  readonly size: number;
  /** Least time to take: a pace that a mirror beside us on the same disk can follow. */
  readonly durationMs: number;
}

/** Copies what is not a hole to the start of the export, at an even pace, then flushes. */
export async function copyImage(
  client: NbdClient,
  clock: Clock,
  image: Disk,
  options: CopyOptions,
  onProgress: OnProgress,
): Promise<void> {
  const pace = new Pace(clock, options);
  let done = 0;
  const pieces = dataPieces(image);
  await inParallel(async () => {
    const next = pieces.next();
    if (next.done === true) return false;
    const { offset, length } = next.value;
    await pace.next(length);
    const data = Buffer.alloc(length);
    await image.read(data, offset);
    await client.write(offset, data);
    done += length;
    onProgress(done);
    return true;
  });
  await client.flush();
}

export interface ScatterOptions {
  /** The blocks lie in [offset, offset + length). */
  readonly offset: number;
  readonly length: number;
  /** Bytes to write in all, over at least so many ms. */
  readonly size: number;
  readonly durationMs: number;
}

/** Writes blocks at random places, at an even pace, then flushes. */
export async function scatter(
  client: NbdClient,
  clock: Clock,
  random: Random,
  options: ScatterOptions,
  onProgress: OnProgress,
): Promise<void> {
  const pace = new Pace(clock, options);
  let done = 0;
  await inParallel(async () => {
    if (pace.isDone) return false;
    const length = BLOCK_SIZES[Math.floor(random.uniform() * BLOCK_SIZES.length)]!;
    await pace.next(length);
    const places = (options.length - length) / BLOCK_ALIGNMENT;
    const offset = options.offset + Math.floor(random.uniform() * places) * BLOCK_ALIGNMENT;
    await client.write(offset, fileContent(length, random));
    done += length;
    onProgress(done);
    return true;
  });
  await client.flush();
}

/** Spreads a number of bytes evenly over a time. */
class Pace {
  readonly #clock: Clock;
  readonly #startMs: number;
  readonly #size: number;
  readonly #durationMs: number;
  #asked = 0;

  constructor(clock: Clock, plan: { readonly size: number; readonly durationMs: number }) {
    this.#clock = clock;
    this.#startMs = clock.nowMs();
    this.#size = plan.size;
    this.#durationMs = plan.durationMs;
  }

  /** All has been asked for. */
  get isDone(): boolean {
    return this.#asked >= this.#size;
  }

  /** Waits until it is time for the next `length` bytes. */
  async next(length: number): Promise<void> {
    this.#asked += length;
    const dueMs = this.#startMs + (this.#asked / this.#size) * this.#durationMs;
    const nowMs = this.#clock.nowMs();
    if (dueMs > nowMs) await this.#clock.sleep(dueMs - nowMs);
  }
}

/** Runs `step` over and over, DEPTH at a time, until it returns false. */
async function inParallel(step: () => Promise<boolean>): Promise<void> {
  const lane = async (): Promise<void> => {
    while (await step());
  };
  await Promise.all(Array.from({ length: DEPTH }, lane));
}

function* dataPieces(image: Disk): Generator<{ offset: number; length: number }> {
  let offset = image.seekData(0);
  while (offset < image.size) {
    const end = image.seekHole(offset);
    for (; offset < end; offset += COPY_SIZE) yield { offset, length: Math.min(COPY_SIZE, end - offset) };
    offset = end < image.size ? image.seekData(end) : image.size;
  }
}
