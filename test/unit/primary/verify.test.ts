import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import { digestOf } from '../../../src/io/digest.ts';
import { Channel } from '../../../src/link/channel.ts';
import { encodeFrame, type Frame, FrameDecoder, FrameType } from '../../../src/link/frame.ts';
import { ClientLoad } from '../../../src/primary/client-load.ts';
import type { LocalDisk } from '../../../src/primary/local-disk.ts';
import { Pacing } from '../../../src/primary/pacing.ts';
import { Questions } from '../../../src/primary/questions.ts';
import { Verify } from '../../../src/primary/verify.ts';
import { RescanTarget } from '../../../src/rescan/target.ts';
import { DiskVolume } from '../../../src/volume/disk-volume.ts';
import { RangeLock } from '../../../src/volume/range-lock.ts';
import { inlineScanPool } from '../../support/inline-scan-pool.ts';
import { MemoryDisk } from '../../support/memory-disk.ts';
import { MemoryStream } from '../../support/memory-network.ts';
import { repeatableRandom, turns } from '../../support/memory-world.ts';
import { replicaParts } from './replica-parts.ts';

const SIZE = 2 * MIB;

/** A verify between two disks, with the stream and the digests of the mirror played by the test. */
async function verifying(windowSize = 16 * MIB) {
  const { world, replica, write } = await replicaParts({
    size: SIZE,
    windowSize,
    spoolSize: 16 * MIB,
    inOrder: true,
  });
  const { clock } = world;
  const scan = inlineScanPool();
  const local = new MemoryDisk(SIZE);
  const image = new MemoryDisk(SIZE);
  const lock = new RangeLock();
  const localDisk: LocalDisk = { volume: new DiskVolume(local), disk: local, lock };
  const [server, client] = MemoryStream.pair();
  const channel = new Channel(client, clock);
  const peer = new Channel(server, clock);
  const questions = new Questions(channel, SIZE);
  const target = new RescanTarget(
    () => ({ disk: image, size: SIZE }),
    { scan, clock },
    (reply) => peer.send([reply]),
    () => undefined,
  );
  const session = { ended: false };
  const verify = new Verify(
    {
      clock,
      scan,
      local: localDisk,
      questions,
      pacing: new Pacing(clock, replica.window, { bytesPerSecond: undefined }, new ClientLoad(clock)),
      ended: () => session.ended,
    },
    repeatableRandom(),
    replica,
  );
  channel.open({ frame: (frame) => questions.answered(frame), drain: () => undefined, closed: () => undefined });
  let questionCount = 0;
  const asked = (frame: Frame): void => {
    questionCount += 1;
    target.request(frame);
  };
  peer.open({ frame: asked, drain: () => undefined, closed: () => undefined });
  let key: Buffer | undefined;
  /** Plays the mirror's side of the stream: answers what stands in the window. */
  const playStream = async (): Promise<number> => {
    let checks = 0;
    for (let entry = replica.window.takeUnsent(); entry !== undefined; entry = replica.window.takeUnsent()) {
      if (entry.type === FrameType.PASS) {
        key = Buffer.from(entry.data!);
        target.passBegan(key);
      } else if (entry.type === FrameType.WRITE) {
        await image.write(Buffer.from(entry.data!), entry.offset);
      } else {
        checks += 1;
        const block = Buffer.alloc(entry.length);
        await image.read(block, entry.offset);
        const same = digestOf(block, key!, entry.offset).equals(Buffer.from(entry.data!));
        verify.result(checkResult(entry.offset, entry.length, same));
      }
      if (entry.remark) replica.backlog.releaseRemark(entry);
    }
    clock.advance(2);
    return checks;
  };
  return {
    clock,
    local,
    image,
    lock,
    replica,
    session,
    questions,
    verify,
    playStream,
    write,
    questionCount: () => questionCount,
  };
}

function checkResult(offset: number, length: number, same: boolean): Frame {
  const decoder = new FrameDecoder();
  decoder.push(encodeFrame(FrameType.CHECK_RESULT, { flags: same ? 1 : 0, offset, length }));
  return decoder.next()!;
}

/** Settles a promise by playing the stream until then. */
async function play<T>(work: Promise<T>, playStream: () => Promise<number>): Promise<PromiseSettledResult<T>> {
  let done = false;
  const settled = Promise.allSettled([work]).then(([outcome]) => {
    done = true;
    return outcome;
  });
  for (let round = 0; round < 200 && !done; round += 1) {
    await playStream();
    await turns(2);
  }
  if (!done) throw new Error('the verify never ends');
  return settled;
}

describe('a verify', () => {
  it('asks again, at a place of the stream, for each block whose digests differ, and believes only that', async () => {
    const { local, image, verify, playStream } = await verifying();
    await local.write(Buffer.alloc(64 * KIB, 1), 0);
    await image.write(Buffer.alloc(64 * KIB, 1), 0);
    await image.write(Buffer.alloc(1, 9), 8192);
    await local.write(Buffer.alloc(4096, 2), MIB);
    const running = verify.run(() => undefined);
    await turns(3);
    // The write that made them differ arrives after the digest was taken.
    void playStream();
    await turns(8);
    await image.write(Buffer.alloc(4096, 2), MIB);
    const outcome = await play(running, playStream);
    expect(outcome).toMatchObject({
      status: 'fulfilled',
      value: { comparedSize: SIZE, differingSize: 4096, ranges: [{ offset: 8192, length: 4096 }], truncated: false },
    });
  });

  it('asks for no digest before its pass is on its way: the mirror would take it for one of the pass before', async () => {
    const { clock, verify, playStream, questionCount } = await verifying();
    await play(
      verify.run(() => undefined),
      playStream,
    );
    const before = questionCount();
    expect(before).toBeGreaterThan(0);
    const second = verify.run(() => undefined);
    for (let round = 0; round < 5; round += 1) {
      await turns(4);
      clock.advance(10);
    }
    expect(questionCount()).toBe(before);
    expect(await play(second, playStream)).toMatchObject({ status: 'fulfilled', value: { differingSize: 0 } });
    expect(questionCount()).toBeGreaterThan(before);
  });

  it('whose session ends while a block is waited for ends too', async () => {
    const { local, lock, session, questions, replica, verify, playStream } = await verifying();
    await local.write(Buffer.alloc(4096, 1), 0);
    const hold = lock.acquire(0, 4096);
    const running = verify.run(() => undefined);
    running.catch(() => undefined);
    for (let round = 0; round < 10; round += 1) {
      await playStream();
      await turns(2);
    }
    session.ended = true;
    questions.end();
    verify.end();
    lock.release(hold);
    const outcome = await play(running, async () => 0);
    expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'connection-lost' } });
    expect(replica.window.hasUnsent).toBe(false);
  });

  it('asks nothing while operations wait in the spool: there is no place in the stream to ask at', async () => {
    const { clock, local, image, replica, verify, playStream, write } = await verifying(20_000);
    await local.write(Buffer.alloc(4096, 1), MIB);
    await local.write(Buffer.alloc(5 * 4096, 2), 0);
    for (let block = 0; block < 5; block += 1) write(block * 4096, 4096, false, new Uint8Array(4096).fill(2));
    expect(replica.backlog.isInWindow).toBe(false);
    const running = verify.run(() => undefined);
    let checks = 0;
    const goOn = async (recording: boolean): Promise<void> => {
      for (let round = 0; round < 100; round += 1) {
        checks += await playStream();
        replica.window.applied(replica.window.lastSequence);
        if (recording) replica.acknowledged(replica.window.lastSequence, 0);
        await turns(2);
        clock.advance(5);
      }
    };
    await goOn(false);
    expect([replica.backlog.isInWindow, checks]).toEqual([false, 0]);
    // The mirror records what the window holds: the rest follows.
    await goOn(true);
    expect(await running).toMatchObject({ differingSize: 4096, ranges: [{ offset: MIB, length: 4096 }] });
    // It was asked about what the spool had, too: the digest was taken before it arrived.
    expect(checks).toBeGreaterThan(1);
    expect(
      image
        .content()
        .subarray(0, 5 * 4096)
        .equals(Buffer.alloc(5 * 4096, 2)),
    ).toBe(true);
  });

  it('does not wait for ever where the spool never gets empty', async () => {
    const { clock, local, replica, verify, playStream, write } = await verifying(20_000);
    await local.write(Buffer.alloc(4096, 1), MIB);
    for (let block = 0; block < 5; block += 1) write(block * 4096, 4096, false, new Uint8Array(4096).fill(2));
    const running = verify.run(() => undefined);
    running.catch(() => undefined);
    for (let round = 0; round < 400; round += 1) {
      await playStream();
      await turns(2);
      clock.advance(100);
    }
    expect(replica.backlog.isInWindow).toBe(false);
    await expect(running).rejects.toMatchObject({ code: 'not-ready' });
  });

  it('counts a block that cannot be read again as different, and goes on', async () => {
    const { local, image, verify, playStream } = await verifying();
    await local.write(Buffer.alloc(4096, 1), 0);
    await local.write(Buffer.alloc(4096, 2), MIB);
    await image.write(Buffer.alloc(4096, 2), MIB);
    local.hook = (call, offset, length) => {
      if (call === 'read' && offset === 0 && length === 4096) throw new Failure('io-error', 'bad block');
    };
    const outcome = await play(
      verify.run(() => undefined),
      playStream,
    );
    expect(outcome).toMatchObject({
      status: 'fulfilled',
      value: { differingSize: 4096, ranges: [{ offset: 0, length: 4096 }] },
    });
  });

  it('refuses the result of a check that it did not place, or of another', async () => {
    const { verify } = await verifying();
    expect(() => verify.result(checkResult(0, 4096, true))).toThrow(expect.objectContaining({ code: 'frame-invalid' }));
  });
});
