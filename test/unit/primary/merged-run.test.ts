import { describe, expect, it } from 'vitest';
import { assert } from '../../../src/base/assert.ts';
import { Failure } from '../../../src/base/failure.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import { FRAME_REPAIR, FrameType } from '../../../src/link/frame.ts';
import { MergedPart } from '../../../src/primary/merged-part.ts';
import { type MergedMeans, sendMerged } from '../../../src/primary/merged-run.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { repeatableRandom } from '../../support/memory-world.ts';
import { SlowFiles } from '../../support/slow-files.ts';

const DISK_SIZE = 8 * MIB;
const BASE = 100;
const END = 250;

interface Sent {
  readonly type: number;
  readonly flags: number;
  readonly sequence: number;
  readonly offset: number;
  readonly length: number;
  readonly data: Uint8Array | undefined;
}

/** A session whose mirror holds a checkpoint durably when the test says so, or at once. */
class SessionRig implements MergedMeans {
  readonly clock = new ManualClock();
  readonly random = repeatableRandom();
  readonly sent: Sent[] = [];
  readonly placed: { number: number; complete: boolean; sequence: number; done: () => void; lost: () => void }[] = [];
  readonly rooms: number[] = [];
  /** Time that each wait for room takes, in ms. */
  roomMs = 0;
  over = false;
  /** The session ends when that many frames have been sent. */
  endsAfter = Number.POSITIVE_INFINITY;
  #number: number;

  constructor(number = 0) {
    this.#number = number;
  }

  sequence(): number {
    return BASE;
  }

  remark(type: number, flags: number, sequence: number, offset: number, length: number, data?: Uint8Array): void {
    assert(!this.over, 'nothing is sent after the end');
    this.sent.push({ type, flags, sequence, offset, length, data });
  }

  place(complete: boolean, sequence: number): Promise<{ number: number }> {
    this.#number += 1;
    const number = this.#number;
    if (this.over) return Promise.reject(new Failure('connection-lost', 'over'));
    return new Promise((resolve, reject) => {
      const done = () => resolve({ number });
      const lost = () => reject(new Failure('connection-lost', 'over'));
      this.placed.push({ number, complete, sequence, done, lost });
      if (complete || sequence === END) done();
    });
  }

  async room(size: number): Promise<void> {
    this.rooms.push(size);
    this.clock.advance(this.roomMs);
    if (this.sent.length < this.endsAfter) return;
    this.over = true;
    for (const { lost } of this.placed) lost();
  }

  ended(): boolean {
    return this.over;
  }

  /** The disk of a mirror that took what was sent. */
  image(before: Buffer): Buffer {
    const image = Buffer.from(before);
    for (const { type, offset, length, data } of this.sent) {
      if (type === FrameType.ZERO) image.fill(0, offset, offset + length);
      else if (type === FrameType.WRITE) image.set(data!, offset);
    }
    return image;
  }
}

async function makePart(): Promise<{ part: MergedPart; files: SlowFiles; image: Buffer; before: Buffer }> {
  const files = new SlowFiles();
  const part = await MergedPart.begin(files, 'spool/merged-1', DISK_SIZE, DISK_SIZE, BASE);
  const before = Buffer.alloc(DISK_SIZE, 1);
  const image = Buffer.from(before);
  const write = async (offset: number, length: number, value: number): Promise<void> => {
    image.fill(value, offset, offset + length);
    await part.write(offset, Buffer.alloc(length, value));
  };
  await write(10, 5 * KIB, 2);
  await write(MIB - 100, MIB + 1000, 3);
  await write(10, 4 * KIB, 4);
  image.fill(0, 3 * MIB, 5 * MIB);
  await part.zero(3 * MIB, 2 * MIB);
  await write(6 * MIB, 700 * KIB, 5);
  await write(DISK_SIZE - 1, 1, 6);
  part.reached(END, 0);
  part.freeze();
  return { part, files, image, before };
}

describe('a merged part', () => {
  it('goes over as a staged run of its own: once each byte, in pieces, at the sequence before it', async () => {
    const { part, image, before } = await makePart();
    const session = new SessionRig();
    await sendMerged(part, session, 'alone');
    const [stage, ...rest] = session.sent;
    expect(stage).toMatchObject({ type: FrameType.STAGE, sequence: BASE, data: part.transfer?.stagingId });
    expect(rest.every(({ sequence, flags }) => sequence === BASE && flags === FRAME_REPAIR)).toBe(true);
    expect(rest.every(({ type, length }) => type === FrameType.ZERO || length <= 256 * KIB)).toBe(true);
    expect(rest.map(({ offset }) => offset)).toEqual(rest.map(({ offset }) => offset).sort((a, b) => a - b));
    expect(rest.reduce((sum, { length }) => sum + length, 0)).toBe(part.coveredSize);
    expect(session.image(before).equals(image)).toBe(true);
    expect(session.placed).toMatchObject([{ complete: true, sequence: END }]);
    // It waits for room for each piece of data.
    expect(session.rooms).toEqual(rest.map(({ type, length }) => (type === FrameType.ZERO ? 0 : length)));
  });

  it('is part of a staged run that is open: nothing begins and nothing completes it', async () => {
    const { part, image, before } = await makePart();
    const session = new SessionRig();
    await sendMerged(part, session, 'inside');
    expect(session.sent.some(({ type }) => type === FrameType.STAGE)).toBe(false);
    expect(session.placed).toMatchObject([{ complete: false, sequence: END }]);
    expect(session.image(before).equals(image)).toBe(true);
    expect(part.transfer).toBeUndefined();
  });

  it('goes on behind the last checkpoint that was done, over a link that never lasts', async () => {
    const { part, image, before } = await makePart();
    let mirror = before;
    let place: Parameters<typeof sendMerged>[2] = 'alone';
    let number = 0;
    const froms: number[] = [];
    for (let sessions = 0; sessions < 40; sessions += 1) {
      const session = new SessionRig(number);
      session.roomMs = 1_100;
      session.endsAfter = 4;
      const sending = sendMerged(part, session, place).then(
        () => true,
        (error: unknown) => {
          expect(error).toMatchObject({ code: 'connection-lost' });
          return false;
        },
      );
      for (let turn = 0; turn < 30; turn += 1) {
        await Promise.resolve();
        for (const { done } of session.placed) done();
      }
      const complete = await sending;
      mirror = session.image(mirror);
      froms.push(session.sent.find(({ type }) => type !== FrameType.STAGE)?.offset ?? DISK_SIZE);
      number += session.placed.length;
      if (complete) break;
      expect(session.sent.some(({ type }) => type === FrameType.STAGE)).toBe(place === 'alone');
      place = { resumedCheckpoint: number };
    }
    expect(mirror.equals(image)).toBe(true);
    expect(froms.length).toBeGreaterThan(3);
    expect(froms).toEqual([...froms].sort((a, b) => a - b));
  });

  it('begins at its start where the mirror holds less than the last checkpoint that was done', async () => {
    const { part } = await makePart();
    part.transfer = { stagingId: Buffer.alloc(16, 1), checkpoint: 9, offset: 6 * MIB };
    const older = new SessionRig(20);
    await sendMerged(part, older, { resumedCheckpoint: 8 });
    expect(older.sent[0]).toMatchObject({ type: FrameType.WRITE, offset: 10 });
    const same = new SessionRig(20);
    await sendMerged(part, same, { resumedCheckpoint: 9 });
    expect(same.sent[0]).toMatchObject({ type: FrameType.WRITE, offset: 6 * MIB });
  });

  it('that cannot be read says so', async () => {
    const { part, files } = await makePart();
    files.failure = new Failure('io-error', 'EIO: made by the test');
    await expect(sendMerged(part, new SessionRig(), 'alone')).rejects.toMatchObject({ code: 'io-error' });
  });

  it('takes its file with it, and gives back the memory of what changed', async () => {
    const { part, files } = await makePart();
    await part.remove();
    expect(await files.exists('spool/merged-1')).toBeUndefined();
    expect(files.openCount).toBe(0);
  });
});
