/** Modes `flush` and `sync` with a real mirror, whose image is looked at as soon as a request has been answered. */
import { randomBytes } from 'node:crypto';
import { closeSync, openSync, readSync } from 'node:fs';
import { expect, test } from 'vitest';
import { isFailure } from '../../../src/base/failure.ts';
import type { Mode, OnMirrorLoss } from '../../../src/base/mode.ts';
import { MIB } from '../../../src/base/units.ts';
import { FRAME_COMPLETE, type Frame, FrameType } from '../../../src/link/frame.ts';
import { BeginKind, decodeHello, encodeWelcome } from '../../../src/link/messages.ts';
import type { AgreementSettings } from '../../../src/primary/agreement.ts';
import { Faults, faultyFiles } from '../../support/faulty-files.ts';
import { memoryLog } from '../../support/memory-log.ts';
import { Pair } from '../../support/pair.ts';
import { ackOf, FakeMirror, NOTHING_YET, type RawPeer } from '../../support/raw-link.ts';

const LONG_MS = 600_000;
/** Waited for in full by some tests; a busy machine must not stand still for so long while a mirror is there. */
const SHORT_MS = 1_500;

function agreement(mode: Mode, onMirrorLoss: OnMirrorLoss, mirrorTimeoutMs: number): AgreementSettings {
  return { mode, onMirrorLoss, mirrorTimeoutMs };
}

function imageHolds(pair: Pair, offset: number, data: Buffer): boolean {
  const file = openSync(pair.imagePath, 'r');
  try {
    const found = Buffer.alloc(data.length);
    readSync(file, found, 0, data.length, offset);
    return found.equals(data);
  } finally {
    closeSync(file);
  }
}

function stateOf(pair: Pair): string | undefined {
  return pair.link.agreement?.state;
}

/** Loses the link again and again, after other times, until it is told to stop. */
function losing(pair: Pair): { readonly losses: () => number; stop(): Promise<void> } {
  let stopped = false;
  let losses = 0;
  const running = (async () => {
    while (!stopped) {
      // A busy machine needs a moment for a session to begin.
      await new Promise((resolve) => setTimeout(resolve, 30 + ((losses * 37) % 220)));
      if (losses % 3 === 0) pair.proxy.drop();
      else {
        pair.proxy.cut();
        await new Promise((resolve) => setTimeout(resolve, 10));
        pair.proxy.restore();
      }
      losses += 1;
    }
  })();
  return {
    losses: () => losses,
    async stop() {
      stopped = true;
      await running;
    },
  };
}

test('flush: after every answered FLUSH and FUA the image holds what was written before, whatever the link does', async () => {
  const pair = await Pair.inStep({ primary: { agreement: agreement('flush', 'stall', LONG_MS) } });
  const link = losing(pair);
  for (let round = 0; round < 40 || link.losses() <= 5; round += 1) {
    const writes = Array.from({ length: 8 }, (_, index) => ({
      // A fast pair comes around.
      offset: ((round * 8 + index) * 20_000) % (pair.size - 16_000),
      data: randomBytes(1 + ((round * 977 + index * 4001) % 16_000)),
    }));
    for (const { offset, data } of writes) await pair.write(offset, Buffer.from(data), round % 4 === 3);
    if (round % 4 !== 3) await pair.primary!.volume.flush();
    for (const { offset, data } of writes) expect(imageHolds(pair, offset, data), `round ${round}`).toBe(true);
  }
  await link.stop();
  await pair.untilInStep();
  pair.expectIdentical();
});

test('flush: a FLUSH waits for the sync of the mirror’s disk, a write does not', async () => {
  const faults = new Faults();
  const pair = await Pair.inStep({
    primary: { agreement: agreement('flush', 'stall', LONG_MS) },
    mirrorWorld: { files: faultyFiles(faults) },
  });
  await pair.write(0, randomBytes(4096));
  await pair.untilInStep();
  faults.hold();
  await pair.write(4096, randomBytes(4096));
  let answered = false;
  const flush = pair.primary!.volume.flush().then(() => {
    answered = true;
  });
  await pair.until('the mirror is at work on its disk', () => faults.heldCount > 0);
  await pair.until('the request waits for it', () => pair.link.agreement!.waiting === 1);
  expect(answered).toBe(false);
  faults.release();
  await flush;
  expect(pair.link.durable).toBe(pair.primary!.status().sequence);
});

test('sync: every answered write, zero and trim is in the image, whatever the link does', async () => {
  const pair = await Pair.inStep({ primary: { agreement: agreement('sync', 'stall', LONG_MS) } });
  const link = losing(pair);
  const { volume } = pair.primary!;
  for (let round = 0; round < 150 || link.losses() <= 5; round += 1) {
    const offset = (round % 40) * 65_536;
    const data = randomBytes(4096);
    if (round % 5 === 4) await volume.zero(offset, data.length, { fua: false, allocate: false, fast: false });
    else if (round % 5 === 3) await volume.trim(offset, data.length, { fua: false });
    else await volume.write(offset, Buffer.from(data), { fua: false });
    expect(imageHolds(pair, offset, round % 5 < 3 ? data : Buffer.alloc(4096)), `round ${round}`).toBe(true);
  }
  await link.stop();
  await pair.untilInStep();
  pair.expectIdentical();
});

test('continue: without the mirror requests are answered, said to be degraded, and the mode returns by itself', async () => {
  const { log, lines } = memoryLog();
  const pair = await Pair.inStep({ log, primary: { agreement: agreement('sync', 'continue', SHORT_MS) } });
  // The first seeding may have taken too long already.
  lines.length = 0;
  await pair.write(0, randomBytes(4096), true);
  expect(stateOf(pair)).toBe('agreeing');
  pair.proxy.cut();
  // Answered only once the mirror has been left out.
  await pair.write(4096, randomBytes(4096));
  expect(stateOf(pair)).toBe('degraded');
  for (let index = 0; index < 100; index += 1) await pair.write(index * 8192, randomBytes(8192), index % 10 === 0);
  await pair.primary!.volume.flush();
  const without = pair.primary!.status().sequence;
  pair.proxy.restore();
  await pair.until('back by itself', () => stateOf(pair) === 'agreeing');
  expect(pair.link.durable).toBeGreaterThanOrEqual(without);
  const data = randomBytes(4096);
  await pair.write(MIB, Buffer.from(data));
  expect(imageHolds(pair, MIB, data)).toBe(true);
  expect(lines.filter(({ level, message }) => level === 'error' && message.includes('no mirror for'))).toHaveLength(1);
  await pair.untilInStep();
  pair.expectIdentical();
});

test('continue: a mirror whose disk hangs, though it answers pings, holds nobody up for ever', async () => {
  const faults = new Faults();
  const pair = await Pair.inStep({
    primary: { agreement: agreement('flush', 'continue', SHORT_MS) },
    mirrorWorld: { files: faultyFiles(faults) },
  });
  faults.hold();
  await pair.write(0, randomBytes(4096));
  await pair.primary!.volume.flush();
  expect([stateOf(pair), pair.link.problem]).toEqual(['degraded', undefined]);
  faults.release();
  await pair.until('back by itself', () => stateOf(pair) === 'agreeing');
  await pair.untilInStep();
  pair.expectIdentical();
});

test('fail: without the mirror FLUSH and FUA fail, writes do not, and both succeed when it is back', async () => {
  const pair = await Pair.inStep({ primary: { agreement: agreement('flush', 'fail', SHORT_MS) } });
  const { volume } = pair.primary!;
  const lost = expect.objectContaining({ code: 'io-error' });
  pair.proxy.cut();
  await pair.write(0, randomBytes(4096));
  await expect(volume.flush()).rejects.toEqual(lost);
  expect(stateOf(pair)).toBe('failing');
  await expect(pair.write(4096, randomBytes(4096), true)).rejects.toEqual(lost);
  await pair.write(8192, randomBytes(4096));
  pair.proxy.restore();
  await pair.until('back by itself', () => stateOf(pair) === 'agreeing');
  await pair.write(12_288, randomBytes(4096), true);
  await volume.flush();
  await pair.untilInStep();
  pair.expectIdentical();
});

test('a primary that starts without its mirror is not held up for longer than the timeout, and takes it in later', async () => {
  const pair = await Pair.make({ primary: { agreement: agreement('sync', 'continue', SHORT_MS) } });
  await pair.startPrimary();
  expect(stateOf(pair)).toBe('waiting');
  await pair.write(0, randomBytes(100_000), true);
  expect(stateOf(pair)).toBe('degraded');
  await pair.startMirror();
  await pair.until('taken in', () => stateOf(pair) === 'agreeing');
  await pair.untilInStep();
  pair.expectIdentical();
});

test('a rescan does not count: requests wait for its end, which answers them', async () => {
  const pair = await Pair.inStep({ primary: { agreement: agreement('sync', 'stall', LONG_MS) } });
  await pair.stopPrimary();
  await pair.startPrimary({ rescanAll: true });
  const data = randomBytes(10_000);
  await pair.write(5, Buffer.from(data));
  expect([stateOf(pair), imageHolds(pair, 5, data)]).toEqual(['agreeing', true]);
  expect(pair.link.lastRescan).toBeDefined();
});

test('a mirror that stopped uncleanly counts only once what it catches up on is committed', async () => {
  const { log, lines } = memoryLog();
  const pair = await Pair.make({ log, primary: { agreement: agreement('flush', 'fail', SHORT_MS) } });
  const replicaId = randomBytes(16);
  let unclean = false;
  const statesAtCommit: unknown[] = [];
  const back = (): number => lines.filter(({ message }) => message.includes('mirror is back')).length;
  const fake = await FakeMirror.listen(pair.key, (frame, peer, { hellos }) => {
    if (frame.type === FrameType.HELLO && unclean) {
      // It takes its time to start again.
      if (stateOf(pair) !== 'failing') {
        peer.destroy();
        return true;
      }
      const { run, generation, size, mapVersion } = hellos.at(-1)!;
      const position = { run, generation, size, mapVersion, resumeAfter: 1, recorded: 1, checkpoint: 1 };
      peer.send(
        encodeWelcome({ ...NOTHING_YET, ...position, fresh: false, seeded: true, consistent: true, replicaId }),
      );
      return true;
    }
    if (frame.type === FrameType.HELLO) {
      hellos.push(decodeHello(frame));
      peer.send(encodeWelcome({ ...NOTHING_YET, replicaId }));
      return true;
    }
    if (frame.type === FrameType.CHECKPOINT && unclean && (frame.flags & FRAME_COMPLETE) !== 0)
      statesAtCommit.push([stateOf(pair), back()]);
    return false;
  });
  await pair.startPrimary({ mirror: fake.address });
  await pair.untilInStep();
  await pair.write(0, randomBytes(4096));
  await pair.untilInStep();
  // The first seeding may have taken too long as well.
  const backBefore = back();
  unclean = true;
  fake.peers.at(-1)!.destroy();
  await pair.write(8192, randomBytes(4096));
  await expect(pair.primary!.volume.flush()).rejects.toMatchObject({ code: 'io-error' });
  await pair.until('staged', () =>
    fake.seen.some((frame) => frame.type === FrameType.BEGIN && frame.flags === BeginKind.CATCH_UP_STAGED),
  );
  await pair.until('back', () => stateOf(pair) === 'agreeing');
  expect(statesAtCommit).toEqual([['failing', backBefore]]);
  await pair.primary!.volume.flush();
});

test('a stop does not hang on requests that wait for a mirror: they get their reason', async () => {
  const pair = await Pair.inStep({ primary: { agreement: agreement('sync', 'stall', LONG_MS) } });
  pair.proxy.cut();
  const { volume } = pair.primary!;
  const outcomes = [pair.write(0, randomBytes(4096)), volume.flush()].map((request) =>
    request.then(
      () => 'answered',
      (error: unknown) => (isFailure(error) ? error.code : 'a bug'),
    ),
  );
  await pair.until('both wait', () => pair.link.agreement!.waiting === 2);
  await pair.stopPrimary();
  expect(await Promise.all(outcomes)).toEqual(['shutting-down', 'shutting-down']);
});

test('a stop gives a mirror that is there its chance', async () => {
  const faults = new Faults();
  const pair = await Pair.inStep({
    primary: { agreement: agreement('sync', 'stall', LONG_MS) },
    mirrorWorld: { files: faultyFiles(faults) },
  });
  faults.hold();
  const { volume } = pair.primary!;
  const requests = [pair.write(0, randomBytes(4096)), volume.flush()];
  await pair.until('both wait', () => pair.link.agreement!.waiting === 2);
  const stopping = pair.stopPrimary();
  faults.release();
  await Promise.all(requests);
  await stopping;
  pair.expectIdentical();
});

test('sync: 32 writes are under way before the mirror says a word, and one acknowledgement answers them all', async () => {
  const pair = await Pair.make({ primary: { agreement: agreement('sync', 'stall', LONG_MS) } });
  let held: Frame[] | undefined;
  let acknowledgements = 0;
  const fake = await FakeMirror.listen(pair.key, (frame: Frame, peer: RawPeer) => {
    if (held === undefined || frame.type !== FrameType.WRITE) return false;
    held.push(frame);
    if (held.length === 32) {
      acknowledgements += 1;
      peer.send(ackOf(frame.sequence));
    }
    return true;
  });
  await pair.startPrimary({ mirror: fake.address });
  await pair.untilInStep();
  held = [];
  await Promise.all(Array.from({ length: 32 }, (_, index) => pair.write(index * 4096, randomBytes(4096))));
  expect([held.length, acknowledgements]).toEqual([32, 1]);
});

test('sync: over a slow link, answers at depth 32 come many to a round trip', async () => {
  const pair = await Pair.inStep({ primary: { agreement: agreement('sync', 'stall', LONG_MS) } });
  pair.proxy.delayMs = 20;
  const COUNT = 640;
  let next = 0;
  let turn = 0;
  let counting = true;
  const turnsWithAnswers = new Set<number>();
  const tick = (): void => {
    turn += 1;
    if (counting) setImmediate(tick);
  };
  setImmediate(tick);
  const worker = async (): Promise<void> => {
    while (next < COUNT) {
      const index = next;
      next += 1;
      await pair.write(index * 4096, randomBytes(4096));
      turnsWithAnswers.add(turn);
    }
  };
  await Promise.all(Array.from({ length: 32 }, worker));
  counting = false;
  // One by one there would be as many as there are writes; 20 at best.
  expect(turnsWithAnswers.size).toBeLessThan(COUNT / 4);
  pair.proxy.delayMs = 0;
  await pair.untilInStep();
  pair.expectIdentical();
});
