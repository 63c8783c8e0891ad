/** Links and mirrors that hang instead of failing. */
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { expect, onTestFinished, test } from 'vitest';
import { GIB, KIB, MIB } from '../../../src/base/units.ts';
import { encodeFrame, FrameType } from '../../../src/link/frame.ts';
import { encodeHello } from '../../../src/link/messages.ts';
import { Faults, faultyFiles } from '../../support/faulty-files.ts';
import { memoryLog } from '../../support/memory-log.ts';
import { Pair, writeRandomly } from '../../support/pair.ts';
import { beginSession, RawPeer, someHello } from '../../support/raw-link.ts';

test.each([0, GIB])(
  'a mirror that stops reading but answers pings blocks no client and costs no more memory than the window; it recovers when it reads again (spool: %i)',
  async (spoolSize) => {
    const faults = new Faults();
    const windowSize = 4 * MIB;
    const pair = await Pair.inStep({
      size: 64 * MIB,
      primary: { windowSize, spoolSize },
      mirrorWorld: { files: faultyFiles(faults) },
    });
    faults.hold();
    onTestFinished(() => faults.release());
    // Far more than the mirror's backlog, both sockets and the window take together.
    for (let index = 0; index < 256; index += 1) {
      await pair.write((index % 32) * MIB, randomBytes(MIB - 512), index % 50 === 0);
      expect(pair.link.window.used).toBeLessThanOrEqual(windowSize + 64 * KIB);
      expect(pair.link.spool.used).toBeLessThanOrEqual(spoolSize);
      // Not faster than the disks: what the spool has not written yet has a limit, too.
      if (index % 8 === 7) await pair.primary!.volume.flush();
    }
    await pair.primary!.volume.flush();
    await pair.until('no longer streaming', () => pair.link.state !== 'streaming');
    expect(pair.link.markedSize > 0).toBe(spoolSize === 0);
    expect(faults.heldCount).toBeGreaterThan(0);
    expect(pair.mirror!.status().exports[0]!.lag!.bytes).toBeLessThan(40 * MIB);
    faults.release();
    await pair.untilInStep(40_000);
    pair.expectIdentical();
    expect(pair.link.lastRescan?.scope).toBe(spoolSize === 0 ? 'marked' : 'everything');
  },
);

test('a half-open link: both sides notice within the timeout, reconnect, and nothing is lost', async () => {
  const { log, lines } = memoryLog();
  const pair = await Pair.inStep({ log, primary: { windowSize: 64 * MIB } });
  const writer = writeRandomly(pair, 7);
  await new Promise((resolve) => setTimeout(resolve, 100));
  pair.proxy.stall();
  await pair.until('the primary noticed', () => pair.link.problem?.code === 'peer-timeout');
  const mirrorNoticed = (): boolean =>
    lines.some(
      ({ message, fields }) =>
        message === 'the session ended' && 'reason' in fields && /nothing heard/.test(String(fields.reason)),
    );
  await pair.until('the mirror noticed', mirrorNoticed);
  expect(pair.mirror!.status().exports[0]!.problem?.code).toBe('peer-timeout');
  // The old connections stay dead; new ones work.
  pair.proxy.drop();
  pair.proxy.restore();
  await writer.stop();
  await pair.untilInStep();
  pair.expectIdentical();
  expect(pair.link.problem).toBeUndefined();
  expect(pair.mirror!.status().exports[0]!.problem).toBeUndefined();
});

test('a stop does not wait for a mirror host that does not answer', async () => {
  const pair = await Pair.make();
  pair.proxy.stall();
  await pair.startPrimary();
  await pair.until('connecting', () => pair.link.state === 'connecting' && pair.proxy.connections > 0);
  await pair.write(5, randomBytes(5000));
  // The attempt itself would be given up after ten seconds.
  const late = new Promise((resolve) => setTimeout(() => resolve('late'), 7_000).unref());
  const stopped = pair.stopPrimary(5_000).then(() => 'stopped');
  expect(await Promise.race([stopped, late])).toBe('stopped');
});

test('a new session of the same primary takes over from a half-open one, after what that had received', async () => {
  const { log, lines } = memoryLog();
  const pair = await Pair.make({ log, size: 4 * MIB });
  await pair.startMirror();
  const hello = someHello(pair.size);
  const old = await RawPeer.connect(pair.mirrorPort, pair.key);
  await beginSession(old, hello);
  // It says nothing more, and its end never arrives; but it is alive enough to answer.
  const fresh = await RawPeer.connect(pair.mirrorPort, pair.key);
  const welcome = await beginSession(fresh, hello);
  expect(welcome).toMatchObject({ fresh: false, seeded: false });
  await old.closed();
  await pair.until('told', () =>
    lines.some(({ fields }) => 'reason' in fields && /took over/.test(String(fields.reason))),
  );
  expect(fresh.ended).toBe(false);
});

test('another run of the same volume is refused while the first answers, and admitted when that is dead', async () => {
  const pair = await Pair.make({ size: 4 * MIB });
  await pair.startMirror();
  const hello = someHello(pair.size);
  const first = await RawPeer.connect(pair.mirrorPort, pair.key);
  await beginSession(first, hello);
  const clone = await RawPeer.connect(pair.mirrorPort, pair.key);
  const cloned = { ...hello, run: randomBytes(16) };
  await expect(beginSession(clone, cloned)).rejects.toMatchObject({ code: 'image-busy' });
  first.answersPings = false;
  const later = await RawPeer.connect(pair.mirrorPort, pair.key);
  await beginSession(later, cloned);
  await first.closed();
});

test('a mirror that stops tells everyone: who streams, who waits for a rescan, who has said nothing yet', async () => {
  const pair = await Pair.make({ size: 4 * MIB, mirror: { rescansMax: 1 } });
  await pair.startMirror();
  const first = await RawPeer.connect(pair.mirrorPort, pair.key);
  await beginSession(first, someHello(pair.size));
  const waiting = await RawPeer.connect(pair.mirrorPort, pair.key);
  waiting.send(
    encodeHello(someHello(pair.size, { exportName: 'other' })),
    encodeFrame(FrameType.RESCAN_REQUEST),
    encodeFrame(FrameType.PING),
  );
  expect((await waiting.next(FrameType.RESCAN_PLACE)).length).toBe(1);
  const silent = await RawPeer.connect(pair.mirrorPort, pair.key);
  silent.send(encodeFrame(FrameType.PING));
  await silent.next(FrameType.PONG);
  const told = Promise.all([first, waiting, silent].map((peer) => peer.refusal()));
  await pair.stopMirror();
  expect((await told).map(({ code }) => code)).toEqual(Array(3).fill('mirror-shutting-down'));
  // Nothing was made for the one that waited.
  expect(existsSync(`${pair.mirrorFolder}/other.img`)).toBe(false);
});
