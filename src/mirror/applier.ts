/**
 * Applies the stream to the image or its staged run, one frame after the other, in the order received.
 *
 * - An epoch is durable before the first operation of the next touches the image: at a barrier the sync starts at once
 *   and the next operation waits for it. A staged run does not touch the image, so there barriers are passed over.
 * - Frames that can be applied at once are; what arrives meanwhile waits in `#waiting`, bounded by the session, which
 *   stops reading when `backlogSize` passes its limit.
 * - The first failure ends the applier: nothing after it is applied, and `failed` is called once.
 */
import { Failure } from '../base/failure.ts';
import { Fifo } from '../base/fifo.ts';
import { payloadPool } from '../base/payload-pool.ts';
import { FRAME_BARRIER, FRAME_COMPLETE, FRAME_REPAIR, type Frame, FrameType } from '../link/frame.ts';
import { decodeStage } from '../link/messages.ts';
import type { MirrorImage } from './image.ts';
import { asMirrorFailure } from './mirror-failure.ts';

export interface ApplierEvents {
  /** Positions moved, over `size` bytes of memory of frames: durable ones are worth telling at once. */
  progressed(durable: boolean, size: number): void;
  /** A checkpoint is durable. */
  checkpointDone(number: number, sequence: number, complete: boolean): void;
  /** A pass of a rescan begins: everything before it has been applied. The payload is the key of its digests. */
  passBegan(key: Buffer): void;
  /** Compares a range with the primary's digest at this very position of the stream. */
  check(frame: Frame): Promise<void>;
  failed(reason: Failure): void;
}

export class Applier {
  readonly #image: MirrorImage;
  readonly #events: ApplierEvents;
  readonly #waiting = new Fifo<Frame>();
  #busy = false;
  #backlogSize = 0;
  #stopped = false;
  /** The sync of the epoch that just ended, until it is done. */
  #barrier: Promise<void> | undefined;
  #idleWaiters: (() => void)[] = [];
  /** Frames taken so far, and those that have been applied. */
  #pushedCount = 0;
  #doneCount = 0;
  #doneWaiters: { readonly count: number; readonly wake: () => void }[] = [];

  constructor(image: MirrorImage, events: ApplierEvents) {
    this.#image = image;
    this.#events = events;
  }

  /** Memory of what was received and is not yet applied, in bytes. */
  get backlogSize(): number {
    return this.#backlogSize;
  }

  /** Nothing waits and nothing is under way. */
  get idle(): boolean {
    return !this.#busy && this.#waiting.length === 0;
  }

  /** Takes the next frame of the stream. */
  push(frame: Frame): void {
    if (this.#stopped) return;
    this.#pushedCount += 1;
    this.#waiting.push(frame);
    this.#backlogSize += frame.payload.length + FRAME_COST_SIZE;
    if (!this.#busy) this.#run();
  }

  /** Ends at once, for a reason that lies outside the stream. */
  abort(reason: unknown): void {
    this.#fail(reason);
  }

  /** Resolves when everything pushed so far has been applied and its epochs are durable, or the applier has failed. */
  async caughtUp(): Promise<void> {
    const count = this.#pushedCount;
    if (!this.#stopped && this.#doneCount < count) {
      await new Promise<void>((wake) => this.#doneWaiters.push({ count, wake }));
    }
    await this.#barrier?.catch(() => undefined);
  }

  /** Takes nothing more; resolves when everything pushed has been applied, or has failed. */
  async finish(): Promise<void> {
    if (!this.idle) await new Promise<void>((resolve) => this.#idleWaiters.push(resolve));
    await this.#barrier?.catch(() => undefined);
    this.#stopped = true;
  }

  #run(): void {
    for (;;) {
      const frame = this.#waiting.first;
      if (frame === undefined) break;
      let pending: void | Promise<void>;
      try {
        pending = this.#apply(frame);
      } catch (error) {
        this.#fail(error);
        return;
      }
      if (pending !== undefined) {
        this.#busy = true;
        pending.then(
          () => this.#settled(frame),
          (error: unknown) => {
            this.#busy = false;
            this.#fail(error);
            this.#wakeIfIdle();
          },
        );
        return;
      }
      this.#done(frame);
    }
    this.#wakeIfIdle();
  }

  /** A frame that could not be applied at once is done; the applier may have failed for another reason meanwhile. */
  #settled(frame: Frame): void {
    this.#busy = false;
    if (this.#stopped) {
      this.#wakeIfIdle();
      return;
    }
    this.#done(frame);
    this.#run();
  }

  /** Never while a call to the disk is under way: the next session must not be overtaken by what is left of this one. */
  #wakeIfIdle(): void {
    if (!this.idle) return;
    for (const wake of this.#idleWaiters.splice(0)) wake();
  }

  #done(frame: Frame): void {
    this.#waiting.shift();
    this.#doneCount += 1;
    while (this.#doneWaiters[0] !== undefined && this.#doneWaiters[0].count <= this.#doneCount) {
      this.#doneWaiters.shift()!.wake();
    }
    const size = frame.payload.length + FRAME_COST_SIZE;
    this.#backlogSize -= size;
    this.#events.progressed(false, size);
  }

  /** Nothing when applied on return. */
  #apply(frame: Frame): void | Promise<void> {
    switch (frame.type) {
      case FrameType.WRITE:
      case FrameType.ZERO:
        return this.#barrier === undefined
          ? this.#mutate(frame)
          : this.#barrier.then(() => this.#mutateUnlessStopped(frame));
      case FrameType.BARRIER:
        // Everything up to its sequence has been applied already: it ends the epoch, or repeats the last barrier.
        return this.#endEpoch(frame.sequence);
      case FrameType.PASS:
        this.#events.passBegan(frame.payload);
        return undefined;
      case FrameType.STAGE:
        this.#checkPlace(frame.sequence);
        return this.#afterBarrier(() => this.#image.stage(decodeStage(frame), frame.sequence));
      case FrameType.MAP_VERSION:
        return this.#image.sawMapVersion(frame.offset);
      case FrameType.CHECKPOINT:
        // At the end of a merged part the sequence goes on past what came one by one.
        this.#checkPlace(frame.sequence, this.#image.run !== undefined);
        return this.#afterBarrier(() => this.#checkpoint(frame));
      case FrameType.CHECK:
        return this.#events.check(frame);
      default:
        throw new Failure('frame-invalid', `a frame of type ${frame.type} does not belong into the stream`);
    }
  }

  #mutateUnlessStopped(frame: Frame): void | Promise<void> {
    if (!this.#stopped) return this.#mutate(frame);
  }

  async #afterBarrier(action: () => Promise<void>): Promise<void> {
    await this.#barrier;
    if (!this.#stopped) await action();
  }

  async #checkpoint(frame: Frame): Promise<void> {
    const complete = (frame.flags & FRAME_COMPLETE) !== 0;
    if (complete) await this.#image.complete(frame.offset, frame.sequence);
    else await this.#image.target.checkpoint(frame.offset, frame.sequence);
    this.#events.checkpointDone(frame.offset, frame.sequence, complete);
  }

  #mutate(frame: Frame): void | Promise<void> {
    const { target } = this.#image;
    target.checkSound();
    const repair = (frame.flags & FRAME_REPAIR) !== 0;
    const expected = target.applied + (repair ? 0 : 1);
    // A comparison leaves out operations that its pass covers, a merge those that later ones cover: there sequences may
    // skip. They never repeat.
    const skips = !repair && target.inOrder && frame.sequence !== expected;
    if (frame.sequence < expected || skips) {
      throw new Failure('frame-invalid', `operation ${frame.sequence} after ${target.applied} is out of order`);
    }
    if (frame.offset + frame.length > target.size || frame.length === 0) {
      throw new Failure('frame-invalid', 'an operation outside the image');
    }
    const pending =
      frame.type === FrameType.WRITE
        ? target.write(frame.payload, frame.offset)
        : target.zero(frame.offset, frame.length);
    if (pending === undefined) return this.#mutated(frame, repair);
    return pending.then(() => this.#mutated(frame, repair));
  }

  #mutated(frame: Frame, repair: boolean): void {
    // Its last owner is done with it.
    if (frame.type === FrameType.WRITE) payloadPool.give(frame.payload);
    if (!repair) this.#image.target.setApplied(frame.sequence);
    if ((frame.flags & FRAME_BARRIER) !== 0) this.#endEpoch(frame.sequence);
  }

  #endEpoch(sequence: number): void {
    this.#checkPlace(sequence);
    const { target } = this.#image;
    target.setApplied(sequence);
    const syncing = target.barrier();
    if (syncing === undefined) return;
    // One that began earlier may end later, and fail: nobody goes on before it has ended as well.
    const barrier = Promise.all([this.#barrier, syncing]).then(() => {
      if (this.#barrier === barrier) this.#barrier = undefined;
      this.#events.progressed(true, 0);
    });
    this.#barrier = barrier;
    barrier.catch((error: unknown) => this.#fail(error));
  }

  /** A barrier or checkpoint stands after the last operation; where some are left out, they may be the last before it. */
  #checkPlace(sequence: number, mayJump = false): void {
    const { target } = this.#image;
    target.checkSound();
    const { applied } = target;
    if (sequence < applied || (target.inOrder && !mayJump && sequence !== applied)) {
      throw new Failure('frame-invalid', `a barrier at ${sequence} after operation ${applied} is out of order`);
    }
  }

  #fail(error: unknown): void {
    const reason = asMirrorFailure(error);
    if (this.#stopped) return;
    this.#stopped = true;
    this.#waiting.clear();
    this.#backlogSize = 0;
    for (const { wake } of this.#doneWaiters.splice(0)) wake();
    this.#events.failed(reason);
    this.#wakeIfIdle();
  }
}

/** What a waiting frame costs besides its payload, in bytes: zeroes and barriers have none, and must be bounded too. */
const FRAME_COST_SIZE = 128;

const WITH_PAYLOAD: ReadonlySet<number> = new Set([FrameType.WRITE, FrameType.PASS, FrameType.CHECK, FrameType.STAGE]);

/** Checks what the frame decoder cannot know: that a WRITE's payload is its length. */
export function checkOperation(frame: Frame): void {
  if (frame.type === FrameType.WRITE && frame.payload.length !== frame.length) {
    throw new Failure('frame-invalid', 'a write whose payload is not its length');
  }
  if (!WITH_PAYLOAD.has(frame.type)) {
    if (frame.payload.length !== 0) throw new Failure('frame-invalid', 'a payload where none belongs');
  }
}
