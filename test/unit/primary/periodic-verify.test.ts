/** The periodic verification between a primary and a mirror in memory, where time stands still unless it is moved. */
import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { MIB } from '../../../src/base/units.ts';
import type { PeriodicVerifySettings } from '../../../src/primary/periodic-verify.ts';
import type { PrimaryOptions } from '../../../src/primary/primary.ts';
import type { VerificationStatus } from '../../../src/primary/status.ts';
import { MemoryPair, STATE_DIRECTORY } from '../../support/memory-pair.ts';
import { turns } from '../../support/memory-world.ts';

const SIZE = 16 * MIB;
const EVERY_MS = 2 * 3_600_000;
const RECORD = `${STATE_DIRECTORY}/verify`;

/** Every MiB of the disk begins with something. */
class VerifiedPair extends MemoryPair {
  static async make(): Promise<VerifiedPair> {
    const content = Buffer.alloc(SIZE);
    for (let at = 0; at < SIZE; at += MIB) content.fill(1 + at / MIB, at, at + 8192);
    const pair = await new VerifiedPair().with(content);
    await pair.startMirror();
    return pair;
  }

  async start(verify: Partial<PeriodicVerifySettings> = {}, more: Partial<PrimaryOptions> = {}): Promise<void> {
    await this.startPrimary({ periodicVerify: { everyMs: EVERY_MS, rate: MIB, repair: false, ...verify }, ...more });
  }

  get verification(): VerificationStatus {
    return this.link.verification!;
  }

  /** Log lines of a level that say this. */
  said(level: string, text: string): object[] {
    return this.log.lines
      .filter((line) => line.level === level && line.message.includes(text))
      .map(({ fields }) => fields);
  }

  /** The first cycle, or the next one, is complete. */
  async untilVerified(): Promise<void> {
    await this.until('a cycle has begun', () => this.verification.running !== undefined, 1000);
    await this.until('and is complete', () => this.verification.running === undefined);
  }

  untilReached(offset: number): Promise<void> {
    return this.until('so far', () => (this.verification.running?.reached ?? 0) >= offset);
  }
}

describe('the periodic verification', () => {
  it('begins by itself, reads no faster than it may, and says when the next one is due', async () => {
    const pair = await VerifiedPair.make();
    await pair.start();
    expect(pair.verification).toMatchObject({ everyMs: EVERY_MS, repair: false, last: undefined, running: undefined });
    expect(pair.verification.nextInMs).toBeGreaterThan(0);
    expect(pair.verification.nextInMs).toBeLessThanOrEqual(300_000);
    await pair.untilVerified();
    const { last, nextInMs } = pair.verification;
    expect(last).toMatchObject({ comparedSize: SIZE, differingSize: 0, ranges: [], truncated: false });
    expect(last!.elapsedMs).toBeGreaterThan(13_000);
    expect(nextInMs).toBeLessThan(EVERY_MS);
    expect(nextInMs).toBeGreaterThan(EVERY_MS - 600_000);
    expect(pair.said('info', 'all the same')).toHaveLength(1);
  });

  it('finds a bit that flipped in the image and says where, and leaves it as it is', async () => {
    const pair = await VerifiedPair.make();
    const asked: object[] = [];
    const ownersOf = async (ranges: readonly object[]): Promise<string[]> => {
      asked.push(...ranges);
      return ranges.map(() => '/some/file');
    };
    await pair.start({ ownersOf });
    await pair.until('streaming', () => pair.link.state === 'streaming');
    const flipped = Buffer.from([pair.image.content()[5 * MIB + 4100]! ^ 4]);
    await pair.image.write(flipped, 5 * MIB + 4100);
    await pair.untilVerified();
    const range = { offset: 5 * MIB + 4096, length: 4096 };
    expect(pair.verification.last).toMatchObject({
      differingSize: 4096,
      repairedSize: 0,
      ranges: [{ ...range, owner: '/some/file' }],
    });
    expect(pair.said('error', 'differs from the disk')).toEqual([range]);
    expect(pair.said('warn', 'belongs to /some/file')).toEqual([{ ...range, owner: '/some/file' }]);
    expect(asked).toEqual([range]);
    expect(pair.image.content()[5 * MIB + 4100]).toBe(flipped[0]);
    expect(pair.link.markedSize).toBe(0);
  });

  it('with repair makes the image what the disk is, counts it when it is durable there, and finds nothing the next time', async () => {
    const pair = await VerifiedPair.make();
    await pair.start({ repair: true });
    await pair.until('streaming', () => pair.link.state === 'streaming');
    await pair.image.write(Buffer.from('x'), 2 * MIB + 1);
    await pair.image.write(Buffer.from('hole no more'), 9 * MIB + 100_000);
    await pair.untilVerified();
    expect(pair.verification.last).toMatchObject({
      differingSize: 8192,
      repairedSize: 8192,
      ranges: [
        { offset: 2 * MIB, length: 4096 },
        { offset: 9 * MIB + 98_304, length: 4096 },
      ],
    });
    expect(pair.link.durable).toBe(2);
    expect(pair.image.content().equals(pair.disk.content())).toBe(true);
    await pair.untilVerified();
    expect(pair.verification.last).toMatchObject({ differingSize: 0, ranges: [] });
  });

  it('does not count a repair that is not durable on the mirror, and has its region marked until it is', async () => {
    const pair = await VerifiedPair.make();
    await pair.start({ repair: true }, { dirtyActive: 1 });
    await pair.until('streaming', () => pair.link.state === 'streaming');
    await pair.until('nothing is marked', () => pair.link.map.set === 0);
    await pair.image.write(Buffer.from('x'), 2 * MIB + 1);
    let held: (() => void)[] = [];
    pair.image.hook = (call) => {
      if (call === 'sync') return new Promise<void>((resolve) => held.push(resolve));
      return undefined;
    };
    await pair.until('it is sent', () => pair.primary.status().sequence === 1, 1000);
    await pair.until('everything is compared', () => pair.verification.running?.reached === SIZE);
    await pair.until('it is being made durable', () => held.length > 0);
    const sinceMs = pair.world.clock.nowMs();
    await pair.until('there was time to count it', () => pair.world.clock.nowMs() > sinceMs + 3_000);
    expect(pair.verification.running).toMatchObject({ differingSize: 4096, repairedSize: 0 });
    expect(pair.link.map.set).toBe(1);
    pair.image.hook = () => undefined;
    for (const release of held) release();
    held = [];
    await pair.until('complete', () => pair.verification.last !== undefined);
    expect(pair.verification.last).toMatchObject({ differingSize: 4096, repairedSize: 4096 });
  });

  it('goes on after a restart where it was', async () => {
    const pair = await VerifiedPair.make();
    await pair.start();
    await pair.until('begun', () => pair.verification.running !== undefined, 1000);
    await pair.untilReached(6 * MIB);
    const { reached } = pair.verification.running!;
    expect(reached).toBeLessThan(SIZE);
    await pair.stopPrimary();
    // Below where it was, and above.
    await pair.image.write(Buffer.from('x'), 4 * MIB);
    await pair.image.write(Buffer.from('x'), 14 * MIB);
    await pair.start();
    await pair.until('goes on', () => pair.verification.running !== undefined);
    expect(pair.verification.running!.reached).toBeGreaterThanOrEqual(reached);
    await pair.until('complete', () => pair.verification.last !== undefined);
    expect(pair.verification.last!.ranges).toEqual([{ offset: 14 * MIB, length: 4096 }]);
    await pair.untilVerified();
    expect(pair.verification.last!.ranges).toEqual([
      { offset: 4 * MIB, length: 4096 },
      { offset: 14 * MIB, length: 4096 },
    ]);
    const { ageMs } = pair.verification.last!;
    await pair.stopPrimary();
    await pair.start();
    await turns(10);
    expect(pair.verification.last).toMatchObject({ differingSize: 8192 });
    expect(pair.verification.last!.ageMs).toBeGreaterThanOrEqual(ageMs);
    expect(pair.verification.nextInMs).toBeGreaterThan(EVERY_MS / 2);
  });

  it('begins anew with a record that is of no use, and says so', async () => {
    const pair = await VerifiedPair.make();
    await pair.start();
    await pair.untilVerified();
    await pair.stopPrimary();
    await pair.world.files.file(RECORD).disk.write(Buffer.alloc(8192, 0x55), 0);
    await pair.start();
    await turns(10);
    expect(pair.said('warn', 'cannot be read, it begins anew')).toMatchObject([{ code: 'state-corrupt' }]);
    expect(pair.verification.last).toBeUndefined();
    await pair.untilVerified();
    expect(pair.verification.last).toMatchObject({ comparedSize: SIZE, differingSize: 0 });
  });

  it('lets the keys of the link be renewed while a cycle is under way', async () => {
    const pair = await VerifiedPair.make();
    await pair.start({ rate: MIB / 2 }, { rekeyIntervalMs: 5_000 });
    await pair.until('begun', () => pair.verification.running !== undefined, 1000);
    const { sessions } = pair.link;
    await pair.until('complete', () => pair.verification.last !== undefined);
    expect(pair.verification.last).toMatchObject({ comparedSize: SIZE, differingSize: 0 });
    expect(pair.link.sessions).toBeGreaterThanOrEqual(sessions + 2);
  });

  it('gives way to a verify on request, and then goes on', async () => {
    const pair = await VerifiedPair.make();
    await pair.start({ rate: MIB });
    await pair.until('begun', () => pair.verification.running !== undefined, 1000);
    await pair.untilReached(3 * MIB);
    const { reached } = pair.verification.running!;
    const report = await pair.finish(pair.primary.verify(() => undefined));
    expect(report).toMatchObject({ comparedSize: SIZE, differingSize: 0 });
    expect(pair.verification.running!.reached).toBeLessThan(reached + 4 * MIB);
    await pair.until('complete', () => pair.verification.last !== undefined);
    expect(pair.verification.last).toMatchObject({ comparedSize: SIZE });
  });

  it('waits while the mirror is away, and goes on when it is back', async () => {
    const pair = await VerifiedPair.make();
    await pair.start();
    await pair.until('begun', () => pair.verification.running !== undefined, 1000);
    await pair.untilReached(3 * MIB);
    pair.world.network.links.at(-1)!.destroy();
    await pair.until('the session is lost', () => pair.link.state !== 'streaming');
    await pair.until('complete', () => pair.verification.last !== undefined);
    expect(pair.verification.last).toMatchObject({ comparedSize: SIZE, differingSize: 0 });
    expect(pair.said('info', 'is interrupted')).toHaveLength(1);
  });

  it('reports a block that cannot be read here, and repairs nothing there', async () => {
    const pair = await VerifiedPair.make();
    await pair.start({ repair: true });
    await pair.until('streaming', () => pair.link.state === 'streaming');
    const bad = 7 * MIB + 4096;
    pair.disk.hook = (call, offset, length) => {
      if (call === 'read' && offset < bad + 4096 && offset + length > bad) throw new Failure('io-error', 'bad block');
    };
    await pair.untilVerified();
    expect(pair.verification.last).toMatchObject({
      differingSize: 0,
      repairedSize: 0,
      unreadableSize: 4096,
      ranges: [{ offset: bad, length: 4096 }],
    });
    expect(pair.said('error', 'cannot be read: not compared')).toEqual([{ offset: bad, length: 4096 }]);
    expect(pair.primary.status().sequence).toBe(0);
  });

  it('asks a mirror that cannot read its image less and less often', async () => {
    const pair = await VerifiedPair.make();
    await pair.start();
    await pair.until('streaming', () => pair.link.state === 'streaming');
    const askedMs: number[] = [];
    pair.image.hook = (call, offset, length) => {
      if (call !== 'read' || offset + length <= 8 * MIB) return;
      const nowMs = pair.world.clock.nowMs();
      // What is in flight together counts once.
      if (nowMs - (askedMs.at(-1) ?? Number.NEGATIVE_INFINITY) > 2_000) askedMs.push(nowMs);
      throw new Failure('io-error', 'bad block');
    };
    await pair.until('it has failed', () => askedMs.length > 0, 1000);
    await pair.until('again and again', () => askedMs.length === 7, 1000);
    const pauses = askedMs.slice(1).map((atMs, index) => atMs - askedMs[index]!);
    // The second attempt may still get on a little.
    for (const [index, pauseMs] of pauses.entries()) expect(pauseMs).toBeGreaterThan(4_500 * 2 ** (index - 1));
    expect(pair.verification.running!.problem).toBeDefined();
    expect(pair.verification.running!.reached).toBeLessThanOrEqual(8 * MIB);
    expect(pair.verification.running!.reached).toBeGreaterThan(4 * MIB);
    pair.image.hook = () => undefined;
    await pair.until('complete', () => pair.verification.last !== undefined, 1000);
    expect(pair.verification.last).toMatchObject({ comparedSize: SIZE, differingSize: 0 });
  });
});
