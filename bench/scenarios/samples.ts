/** The two ends and the link between them, looked at once a second. */
import type { PacedWriter } from './paced-writer.ts';
import type { Twin } from './twin.ts';

const INTERVAL_MS = 1000;

export interface Sample {
  /** Milliseconds since the load began. */
  readonly atMs: number;
  /** Bytes of writes answered, and bytes on the link towards the mirror, since the load began. */
  readonly answeredSize: number;
  readonly linkSize: number;
  /** Of the primary. */
  readonly state: string;
  readonly rung: string;
  readonly lagBytes: number;
  readonly lagOperations: number;
  readonly lagMs: number;
  readonly windowUsed: number;
  readonly spoolUsed: number;
  /** Of the mirror. */
  readonly mirrorState: string;
  readonly consistent: boolean;
  readonly applied: number;
  /** Of the staged run that is open: bytes, and its age; 0 and undefined without one. */
  readonly stagedSize: number;
  readonly stagedAgeMs: number | undefined;
}

/** Takes samples until stopped. */
export class Sampler {
  readonly samples: Sample[] = [];
  readonly #twin: Twin;
  readonly #writer: PacedWriter;
  readonly #startMs = performance.now();
  readonly #linkStart: number;
  #timer: NodeJS.Timeout;
  #taking: Promise<void> = Promise.resolve();
  #failure: unknown;

  /** The load begins now. */
  constructor(twin: Twin, writer: PacedWriter) {
    this.#twin = twin;
    this.#writer = writer;
    this.#linkStart = twin.link?.carried.toTarget ?? 0;
    // One after the other: a mirror that stands still for a moment answers late.
    this.#timer = setInterval(() => {
      this.#taking = this.#taking
        .then(() => this.#take())
        .catch((error: unknown) => {
          this.#failure ??= error;
        });
    }, INTERVAL_MS);
  }

  /** Throws what a sample failed with, if one did. */
  check(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.#taking;
    this.check();
  }

  async #take(): Promise<void> {
    const [primary, { exports }] = await Promise.all([this.#twin.linkStatus(), this.#twin.mirror.status()]);
    const mirror = exports[0];
    if (mirror === undefined) throw new Error('the mirror has no export');
    const { staging } = mirror;
    this.samples.push({
      atMs: performance.now() - this.#startMs,
      answeredSize: this.#writer.history.answeredSize,
      linkSize: (this.#twin.link?.carried.toTarget ?? 0) - this.#linkStart,
      state: primary.state,
      rung: primary.spool.rung,
      lagBytes: primary.lag.bytes,
      lagOperations: primary.lag.operations,
      lagMs: primary.lag.ms,
      windowUsed: primary.window.used,
      spoolUsed: primary.spool.used,
      mirrorState: mirror.state,
      consistent: mirror.consistent,
      applied: mirror.applied,
      stagedSize: staging?.size ?? 0,
      stagedAgeMs: staging?.ageMs,
    });
  }
}
