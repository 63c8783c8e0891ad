import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { FRAME_BARRIER, FRAME_COMPLETE, FRAME_REPAIR, type Frame, FrameType } from '../../../src/link/frame.ts';
import { Applier, type ApplierEvents, checkOperation } from '../../../src/mirror/applier.ts';
import type { MirrorImage } from '../../../src/mirror/image.ts';
import type { MemoryDisk, MemoryDiskCall } from '../../support/memory-disk.ts';
import { turns } from '../../support/memory-world.ts';
import { barrier, beginning, frame, HELLO, imageInStep, newImage, SIZE, write, zero } from './fixtures.ts';

const failed = (code: string) => expect.objectContaining({ code });

class Told implements ApplierEvents {
  readonly failures: Failure[] = [];
  readonly events: string[] = [];
  durable = 0;
  onCheck: (frame: Frame) => Promise<void> = () => Promise.resolve();

  progressed(durable: boolean): void {
    if (durable) this.durable += 1;
  }
  checkpointDone(number: number, sequence: number, complete: boolean): void {
    this.events.push(`checkpoint ${number} at ${sequence}${complete ? ', complete' : ''}`);
  }
  passBegan(key: Buffer): void {
    this.events.push(`pass ${key.toString()}`);
  }
  check(asked: Frame): Promise<void> {
    this.events.push(`check ${asked.offset}`);
    return this.onCheck(asked);
  }
  failed(reason: Failure): void {
    this.failures.push(reason);
  }
}

interface Applying {
  image: MirrorImage;
  disk: MemoryDisk;
  told: Told;
  applier: Applier;
}

async function applying(parts: { image: MirrorImage; disk: MemoryDisk }): Promise<Applying> {
  const told = new Told();
  return { image: parts.image, disk: parts.disk, told, applier: new Applier(parts.image, told) };
}

const inStep = async (): Promise<Applying> => applying(await imageInStep());

async function seeding(): Promise<Applying> {
  const parts = await newImage();
  await parts.image.begin(HELLO, beginning('SEEDING'));
  return applying(parts);
}

/** Calls of the disk wait until the test settles them. */
function hold(disk: MemoryDisk, which: readonly MemoryDiskCall[]): { call: string; go(): void; fail(): void }[] {
  const held: { call: string; go(): void; fail(): void }[] = [];
  disk.hook = (call) => {
    if (!which.includes(call)) return undefined;
    return new Promise<void>((go, reject) => {
      held.push({ call, go, fail: () => reject(new Failure('io-error', 'injected')) });
    });
  };
  return held;
}

interface Operation {
  readonly kind: 'write' | 'zero' | 'barrier';
  readonly offset: number;
  readonly length: number;
  readonly fill: number;
  readonly fua: boolean;
}

const operations: fc.Arbitrary<Operation[]> = fc.array(
  fc
    .record({
      kind: fc.constantFrom('write' as const, 'write' as const, 'zero' as const, 'barrier' as const),
      offset: fc.nat(SIZE - 1),
      length: fc.integer({ min: 1, max: 9000 }),
      fill: fc.integer({ min: 1, max: 255 }),
      fua: fc.boolean(),
    })
    .map((drawn) => ({ ...drawn, length: Math.min(drawn.length, SIZE - drawn.offset) })),
  { minLength: 1, maxLength: 25 },
);

/** The stream as frames, and the image after each frame. */
function streamOf(taken: readonly Operation[]): { frames: Frame[]; epochs: number[]; contents: Buffer[] } {
  const content = Buffer.alloc(SIZE);
  const frames: Frame[] = [];
  const epochs: number[] = [];
  const contents: Buffer[] = [];
  let sequence = 0;
  let epoch = 0;
  for (const { kind, offset, length, fill, fua } of taken) {
    const flags = fua ? FRAME_BARRIER : 0;
    if (kind === 'barrier') {
      frames.push(barrier(sequence));
    } else {
      sequence += 1;
      frames.push(
        kind === 'write' ? write(sequence, offset, length, fill, flags) : zero(sequence, offset, length, flags),
      );
      content.fill(kind === 'write' ? fill : 0, offset, offset + length);
    }
    epochs.push(epoch);
    if (kind === 'barrier' || fua) epoch += 1;
    contents.push(Buffer.from(content));
  }
  return { frames, epochs, contents };
}

function sentMax(frames: readonly Frame[]): number {
  return Math.max(...frames.map(({ sequence }) => sequence));
}

function random(seed: number): (limit: number) => number {
  let state = seed >>> 0;
  return (limit) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
}

describe('the applier', () => {
  it('applies in order, and an epoch is durable before the first operation of the next touches the image', async () => {
    await fc.assert(
      fc.asyncProperty(operations, fc.nat(2 ** 31), async (taken, seed) => {
        const { image, disk, told, applier } = await inStep();
        const { frames, epochs, contents } = streamOf(taken);
        const mutations = frames.flatMap(({ type }, index) => (type === FrameType.BARRIER ? [] : [index]));
        const pick = random(seed);
        const problems: string[] = [];
        let begun = 0;
        // Content that syncs which have finished cover, told apart from what the disk in memory calls durable early.
        let durable = disk.content();
        let syncing = Promise.resolve();
        disk.hook = (call, offset, length) => {
          const delay = async (): Promise<void> => {
            for (let count = pick(3); count > 0; count -= 1) await Promise.resolve();
            if (pick(3) === 0) await turns(1);
          };
          if (call === 'sync') {
            const covered = disk.content();
            // One after the other, as the real disk does it.
            syncing = syncing.then(delay).then(() => {
              durable = covered;
            });
            return syncing;
          }
          const index = mutations[begun]!;
          begun += 1;
          if (frames[index]!.offset !== offset || frames[index]!.length !== length) problems.push(`order at ${index}`);
          const lastOfEpoch = epochs.findLastIndex((epoch) => epoch < epochs[index]!);
          const before = lastOfEpoch < 0 ? Buffer.alloc(SIZE) : contents[lastOfEpoch]!;
          if (!durable.equals(before)) problems.push(`epoch before ${index} is not durable`);
          return pick(2) === 0 ? undefined : delay();
        };
        for (const each of frames) {
          applier.push(each);
          if (pick(4) === 0) await turns(1);
        }
        await applier.finish();
        expect(problems).toEqual([]);
        expect(told.failures).toEqual([]);
        expect(disk.content().equals(contents.at(-1)!)).toBe(true);
        expect(image.applied).toBe(mutations.length);
        expect(applier.backlogSize).toBe(0);
        expect(applier.idle).toBe(true);
      }),
      { numRuns: 150 },
    );
  });

  it('after a failure of any call, applies nothing more, finishes, and can be resumed to the same image', async () => {
    const outcomes = new Set<string>();
    await fc.assert(
      fc.asyncProperty(
        operations,
        fc.nat(2 ** 31),
        fc.constantFrom('write' as const, 'sync' as const),
        fc.nat(12),
        async (taken, seed, failing, nth) => {
          const { image, disk, told, applier } = await inStep();
          const { frames, contents } = streamOf(taken);
          const pick = random(seed);
          let calls = 0;
          let broken = false;
          let after = 0;
          disk.hook = async (call) => {
            if (broken && call !== 'sync') after += 1;
            const mine = failing === 'sync' ? call === 'sync' : call !== 'sync';
            if (mine) calls += 1;
            const fails = mine && calls === nth + 1;
            for (let count = pick(4); count > 0; count -= 1) await Promise.resolve();
            if (pick(3) === 0) await turns(1);
            if (!fails) return;
            broken = true;
            throw new Failure('io-error', 'injected');
          };
          for (const each of frames) {
            applier.push(each);
            if (pick(4) === 0) await turns(1);
          }
          if (pick(2) === 0) await image.target.record().catch((error: unknown) => applier.abort(error));
          await applier.finish();
          disk.hook = undefined;
          outcomes.add(`${failing} ${broken ? 'failed' : 'worked'}`);
          expect(told.failures.map(({ code }) => code)).toEqual(broken ? ['mirror-io-error'] : []);
          // At most what was under way already when it broke.
          expect(after).toBeLessThanOrEqual(failing === 'sync' ? 1 : 0);
          expect(image.recorded).toBeLessThanOrEqual(image.durable);
          expect(image.durable).toBeLessThanOrEqual(image.applied);
          expect(image.exact).toBe(!broken);

          // The next session sends everything after `applied` again, staged where it may be in the image already.
          const resumed = new Told();
          const sent = sentMax(frames);
          const kind = image.exact ? 'CATCH_UP' : 'CATCH_UP_STAGED';
          await image.begin(HELLO, beginning(kind, image.applied, sent));
          const next = new Applier(image, resumed);
          const from = image.applied;
          for (const each of frames) if (each.sequence > from) next.push(each);
          next.push(frame(FrameType.CHECKPOINT, { flags: FRAME_COMPLETE, sequence: sent, offset: 1 }));
          await next.finish();
          expect(resumed.failures).toEqual([]);
          expect(disk.content().equals(contents.at(-1)!)).toBe(true);
          expect([image.consistent, image.exact, image.recorded]).toEqual([true, true, sent]);
        },
      ),
      { numRuns: 200 },
    );
    expect(outcomes.size).toBe(4);
  });

  it('goes back to the recorded position when a sync fails', async () => {
    const { image, disk, told, applier } = await inStep();
    applier.push(write(1, 0, 512, 1));
    await image.target.record();
    applier.push(write(2, 512, 512, 2));
    expect([image.applied, image.recorded]).toEqual([2, 1]);
    disk.hook = (call) => (call === 'sync' ? Promise.reject(new Failure('io-error', 'injected')) : undefined);
    applier.push(barrier(2));
    applier.push(write(3, 1024, 512, 3));
    await turns(2);
    expect(told.failures).toEqual([failed('mirror-io-error')]);
    expect([image.applied, image.durable, image.recorded]).toEqual([1, 1, 1]);
    expect(disk.content()[1024]).toBe(0);
    applier.push(write(2, 1024, 512, 4));
    await applier.finish();
    expect(disk.content()[1024]).toBe(0);
    expect(image.applied).toBe(1);
  });

  it('does not finish while a call to the disk is under way, whatever failed meanwhile', async () => {
    for (const end of ['go', 'fail'] as const) {
      const { image, disk, told, applier } = await inStep();
      const held = hold(disk, ['write']);
      applier.push(write(1, 0, 512, 1));
      applier.push(write(2, 512, 512, 2));
      applier.abort(new Failure('io-error', 'a scan failed'));
      expect(applier.backlogSize).toBe(0);
      let finished = false;
      const finish = applier.finish().then(() => {
        finished = true;
      });
      await turns(2);
      expect([finished, held.length]).toEqual([false, 1]);
      held[0]![end]();
      await finish;
      expect(held.length).toBe(1);
      expect(told.failures).toEqual([failed('mirror-io-error')]);
      expect(image.applied).toBe(end === 'go' ? 1 : 0);
    }
  });

  it('does not let an operation through that waited for the barrier when all was called off', async () => {
    const { disk, applier } = await inStep();
    const held = hold(disk, ['sync']);
    applier.push(write(1, 0, 512, 1, FRAME_BARRIER));
    applier.push(write(2, 512, 512, 2));
    applier.abort(new Failure('io-error', 'a scan failed'));
    held[0]!.go();
    await applier.finish();
    expect(disk.content()[512]).toBe(0);
  });

  it('finishes when nothing was ever pushed, and when asked twice', async () => {
    const { applier } = await inStep();
    await applier.finish();
    await applier.finish();
    expect(applier.idle).toBe(true);
  });

  it('bounds what waits: payloads and frames without one both count', async () => {
    const { disk, applier } = await inStep();
    const held = hold(disk, ['write']);
    applier.push(write(1, 0, 1000, 1));
    const one = applier.backlogSize;
    expect(one).toBeGreaterThan(1000);
    for (let sequence = 2; sequence <= 11; sequence += 1) applier.push(zero(sequence, 0, 512));
    expect(applier.backlogSize).toBeGreaterThanOrEqual(one + 10 * 64);
    held[0]!.go();
    await applier.finish();
    expect(applier.backlogSize).toBe(0);
  });

  it('refuses operations out of order', async () => {
    for (const [first, second] of [
      [1, 1],
      [1, 3],
      [2, 3],
      [1, 0],
    ] as const) {
      const { disk, told, applier } = await inStep();
      applier.push(write(first, 0, 512, 1));
      applier.push(write(second, 512, 512, 2));
      expect(told.failures).toEqual([failed('frame-invalid')]);
      expect(disk.content()[512]).toBe(0);
    }
  });

  it('refuses a barrier or checkpoint that does not stand behind the last operation', async () => {
    for (const wrong of [barrier(0), barrier(2), frame(FrameType.CHECKPOINT, { sequence: 2, offset: 9 })]) {
      const { told, applier } = await inStep();
      applier.push(write(1, 0, 512, 1));
      applier.push(wrong);
      await turns(2);
      expect(told.failures).toEqual([failed('frame-invalid')]);
    }
  });

  it('refuses operations outside the image, empty ones, and frames that are none', async () => {
    for (const wrong of [
      write(1, SIZE - 511, 512, 1),
      zero(1, SIZE, 1),
      zero(1, 0, 0),
      frame(FrameType.ACK, { sequence: 1 }),
      frame(FrameType.HELLO),
    ]) {
      const { disk, told, applier } = await inStep();
      applier.push(wrong);
      expect(told.failures).toEqual([failed('frame-invalid')]);
      expect(disk.counts.write + disk.counts.zero).toBe(0);
    }
  });

  it('applies a repair at any time without moving on, and waits with it for the barrier', async () => {
    const { image, disk, told, applier } = await seeding();
    const held = hold(disk, ['sync']);
    applier.push(write(1, 0, 512, 1, FRAME_BARRIER));
    applier.push(write(1, 512, 512, 2, FRAME_REPAIR));
    applier.push(zero(1, 0, 512, FRAME_REPAIR));
    expect(disk.content()[512]).toBe(0);
    held[0]!.go();
    await applier.finish();
    expect([disk.content()[512], disk.content()[0]]).toEqual([2, 0]);
    expect(image.applied).toBe(1);
    expect(told.failures).toEqual([]);
  });

  it('lets sequences skip during a seeding, never repeat, and counts to its end', async () => {
    const { image, told, applier } = await seeding();
    applier.push(write(2, 0, 512, 1));
    applier.push(barrier(5));
    applier.push(write(9, 0, 512, 2));
    applier.push(frame(FrameType.CHECKPOINT, { flags: FRAME_COMPLETE, sequence: 12, offset: 4 }));
    applier.push(write(13, 0, 512, 3));
    await applier.finish();
    expect(told.events).toEqual(['checkpoint 4 at 12, complete']);
    expect(told.failures).toEqual([]);
    expect(image.applied).toBe(13);
    expect(image.state).toMatchObject({ consistent: true, seeded: true, recorded: 12, checkpoint: 4 });
    const again = await seeding();
    again.applier.push(write(2, 0, 512, 1));
    again.applier.push(write(2, 0, 512, 1));
    expect(again.told.failures).toEqual([failed('frame-invalid')]);
  });

  it('begins a pass and makes a check at their places in the stream', async () => {
    const { disk, told, applier } = await seeding();
    const held = hold(disk, ['write']);
    let release = (): void => undefined;
    told.onCheck = () =>
      new Promise<void>((resolve) => {
        release = resolve;
      });
    applier.push(write(1, 0, 512, 1));
    applier.push(frame(FrameType.PASS, { payload: Buffer.from('key') }));
    applier.push(frame(FrameType.CHECK, { offset: 4096, length: 512 }));
    applier.push(write(2, 0, 512, 1));
    expect(told.events).toEqual([]);
    held[0]!.go();
    await turns(1);
    expect(told.events).toEqual(['pass key', 'check 4096']);
    expect(held.length).toBe(1);
    release();
    await turns(1);
    expect(held.length).toBe(2);
    held[1]!.go();
    await applier.finish();
  });

  it('tells a failed check as it is', async () => {
    const { told, applier } = await seeding();
    told.onCheck = () => Promise.reject(new Failure('frame-invalid', 'malformed'));
    applier.push(frame(FrameType.CHECK));
    await applier.finish();
    expect(told.failures).toEqual([failed('frame-invalid')]);
  });

  it('tells the primary a full disk and a broken one apart', async () => {
    for (const [code, told] of [
      ['no-space', 'mirror-no-space'],
      ['io-error', 'mirror-io-error'],
      ['not-permitted', 'mirror-io-error'],
    ] as const) {
      const parts = await inStep();
      parts.disk.hook = () => {
        throw new Failure(code, 'injected');
      };
      parts.applier.push(write(1, 0, 512, 1));
      expect(parts.told.failures).toEqual([failed(told)]);
      expect([parts.image.applied, parts.image.consistent, parts.image.exact]).toEqual([0, true, false]);
    }
  });

  it('can go on for thousands of frames', async () => {
    const { image, disk, applier } = await inStep();
    const held = hold(disk, ['write']);
    for (let sequence = 1; sequence <= 5000; sequence += 1)
      applier.push(write(sequence, sequence % SIZE, 1, sequence % 251));
    disk.hook = undefined;
    held[0]!.go();
    await applier.finish();
    expect([image.applied, applier.backlogSize]).toEqual([5000, 0]);
    expect(disk.content()[5000]).toBe(5000 % 251);
  });
});

describe('frames of the stream', () => {
  it('have a payload exactly where one belongs, a write one of its length', () => {
    checkOperation(write(1, 0, 512, 1));
    checkOperation(frame(FrameType.PASS, { payload: Buffer.alloc(16) }));
    checkOperation(frame(FrameType.CHECK, { payload: Buffer.alloc(16) }));
    checkOperation(zero(1, 0, 512));
    const invalid = failed('frame-invalid');
    expect(() => checkOperation({ ...write(1, 0, 512, 1), length: 511 })).toThrow(invalid);
    expect(() => checkOperation(frame(FrameType.WRITE, { length: 512 }))).toThrow(invalid);
    for (const type of [FrameType.ZERO, FrameType.BARRIER, FrameType.CHECKPOINT, FrameType.ACK]) {
      expect(() => checkOperation(frame(type, { payload: Buffer.alloc(1) }))).toThrow(invalid);
    }
  });
});
