/**
 * Lines for a file descriptor whose reader may be slow or stuck: writing never waits. One write is under way at a
 * time, in the thread pool; what comes meanwhile is kept up to LINE_BACKLOG_MAX and dropped beyond. Once the reader is
 * gone, everything is dropped.
 */
import fs from 'node:fs';
import { errnoOf } from '../base/failure.ts';
import { MIB } from '../base/units.ts';

/** Bytes that wait for the reader. */
export const LINE_BACKLOG_MAX = MIB;
/** A pipe that is full and does not block is tried again after this time. */
const RETRY_MS = 20;
/** A reader that took nothing for so long is stuck. */
const STUCK_MS = 1000;

export class LineSink {
  readonly #descriptor: number;
  readonly #waiting: Buffer[] = [];
  #waitingSize = 0;
  /** The next write is about to begin: lines of one turn of the event loop go together. */
  #isDue = false;
  /** What is being written. */
  #writing: Buffer | undefined;
  #writingSinceMs = 0;
  #isBroken = false;
  /** A flush gave up on the reader, and nothing has gone out since. */
  #isStuck = false;
  #droppedCount = 0;
  #whenIdle: (() => void)[] = [];

  constructor(descriptor: number) {
    this.#descriptor = descriptor;
  }

  /** Lines that were dropped so far. */
  get droppedCount(): number {
    return this.#droppedCount;
  }

  /** `line` has its line end. */
  write(line: string): void {
    const data = Buffer.from(line, 'utf8');
    if (this.#isBroken || this.#waitingSize + data.length > LINE_BACKLOG_MAX) {
      this.#droppedCount += 1;
      return;
    }
    this.#waiting.push(data);
    this.#waitingSize += data.length;
    if (this.#writing !== undefined || this.#isDue) return;
    this.#isDue = true;
    setImmediate(() => {
      this.#isDue = false;
      this.#next();
    });
  }

  /** Resolves when everything is written, or the reader has turned out to be stuck or gone. */
  async flush(): Promise<void> {
    if (this.#writing === undefined && !this.#isDue) return;
    let timer: NodeJS.Timeout | undefined;
    const idle = new Promise<void>((resolve) => this.#whenIdle.push(resolve));
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(() => {
        this.#isStuck = true;
        resolve();
      }, STUCK_MS);
    });
    await Promise.race([idle, late]);
    clearTimeout(timer);
  }

  /**
   * For a process that must not go on: writes everything before it returns, unless the reader is stuck. What was being
   * written may appear twice.
   */
  flushNow(): void {
    // Writing here would wait as long as the reader does.
    if (this.#isBroken || this.#isStuck) return;
    const writing = this.#writing === undefined ? [] : [this.#writing];
    if (writing.length > 0 && performance.now() - this.#writingSinceMs > STUCK_MS) return;
    try {
      for (const data of [...writing, ...this.#waiting]) fs.writeSync(this.#descriptor, data);
    } catch {
      // Full or gone: nobody can be told.
    }
    this.#waiting.length = 0;
    this.#waitingSize = 0;
  }

  #next(): void {
    if (this.#waiting.length === 0) {
      this.#writing = undefined;
      for (const resolve of this.#whenIdle.splice(0)) resolve();
      return;
    }
    this.#writingSinceMs = performance.now();
    this.#attempt(Buffer.concat(this.#waiting.splice(0)));
    this.#waitingSize = 0;
  }

  #attempt(data: Buffer): void {
    this.#writing = data;
    fs.write(this.#descriptor, data, (error, written) => {
      if (error === null) {
        this.#isStuck = false;
        if (written < data.length) this.#attempt(data.subarray(written));
        else this.#next();
      } else if (errnoOf(error) === 'EAGAIN') setTimeout(() => this.#attempt(data), RETRY_MS).unref();
      else {
        this.#isBroken = true;
        this.#waiting.length = 0;
        this.#next();
      }
    });
  }
}
