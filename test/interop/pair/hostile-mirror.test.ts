/** What a primary does with a mirror that has the key and does not keep to the protocol. Its clients never notice. */
import { randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import { NO_ID } from '../../../src/base/bytes.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import { encodeFrame, type Frame, FrameType } from '../../../src/link/frame.ts';
import { encodeAck, encodeRefused, encodeWelcome, NO_POSITIONS } from '../../../src/link/messages.ts';
import type { PrimaryOptions } from '../../../src/primary/primary.ts';
import { type LogLine, memoryLog } from '../../support/memory-log.ts';
import { Pair } from '../../support/pair.ts';
import { ackOf, FakeMirror, NOTHING_YET, type RawPeer } from '../../support/raw-link.ts';

interface Scene {
  readonly pair: Pair;
  readonly fake: FakeMirror;
  readonly lines: LogLine[];
}

/** A primary whose mirror is a fake one; `on` sees each frame first and says whether it has dealt with it. */
async function meet(
  on: (frame: Frame, peer: RawPeer, fake: FakeMirror) => boolean,
  options: Partial<PrimaryOptions> = {},
): Promise<Scene> {
  const { log, lines } = memoryLog();
  const pair = await Pair.make({ log, primary: options });
  const fake = await FakeMirror.listen(pair.key, on);
  await pair.startPrimary({ mirror: fake.address });
  return { pair, fake, lines };
}

/** The same once the fake mirror counts as streaming. */
async function meetInStep(
  on: (frame: Frame, peer: RawPeer, fake: FakeMirror) => boolean,
  options: Partial<PrimaryOptions> = {},
): Promise<Scene> {
  const scene = await meet(on, options);
  await scene.pair.untilInStep();
  return scene;
}

/** The primary has seen through it, said so, and its clients write on. */
async function expectProblem({ pair, lines }: Scene, code: string, text = ''): Promise<void> {
  await pair.until('the problem', () => pair.link.problem?.code === code);
  expect(pair.link.problem!.message).toContain(text);
  expect(lines.some(({ level, fields }) => level === 'warn' && 'code' in fields && fields.code === code)).toBe(true);
  const data = randomBytes(4096);
  await pair.write(MIB, data, true);
  const read = Buffer.alloc(4096);
  await pair.primary!.volume.read(read, MIB);
  expect(read.equals(data)).toBe(true);
}

test('a mirror that pretends well is streamed to', async () => {
  const scene = await meetInStep(() => false);
  await scene.pair.write(5, randomBytes(5000));
  await scene.pair.untilInStep();
  expect(scene.fake.seen.filter(({ type }) => type === FrameType.WRITE)).toHaveLength(1);
});

test('a mirror that is silent from the start is given up as not answering, and tried again', async () => {
  const scene = await meet((_, peer) => {
    peer.answersPings = false;
    return true;
  });
  await expectProblem(scene, 'peer-timeout');
  await scene.pair.until('another attempt', () => scene.fake.peers.length >= 2);
});

test.each([
  ['random bytes', randomBytes(4000), 'frame-invalid'],
  ['a frame of another kind', ackOf(0), 'peer-foreign'],
  ['a WELCOME without an id', encodeWelcome({ ...NOTHING_YET, replicaId: NO_ID }), 'frame-invalid'],
  [
    'a WELCOME that has seen a dirty map at the end of all counting',
    encodeWelcome({ ...NOTHING_YET, mapVersion: Number.MAX_SAFE_INTEGER }),
    'frame-invalid',
  ],
  ['a WELCOME of a version never offered', encodeWelcome({ ...NOTHING_YET, version: 3 }), 'peer-version'],
  ['a WELCOME cut short', encodeFrame(FrameType.WELCOME, { payload: Buffer.alloc(20) }), 'peer-foreign'],
  [
    'a refusal for a reason unknown here',
    encodeFrame(FrameType.REFUSED, { payload: Buffer.from('odd\0why') }),
    'frame-invalid',
  ],
])('a mirror that answers HELLO with %s is refused', async (_, answer, code) => {
  const scene = await meet((frame, peer) => {
    if (frame.type !== FrameType.HELLO) return false;
    if (answer.length === 4000) answer[0] = 255;
    peer.send(answer);
    return true;
  });
  await expectProblem(scene, code);
});

test('a refusal is shown with the mirror’s words, without control characters', async () => {
  const scene = await meet((frame, peer) => {
    if (frame.type !== FrameType.HELLO) return false;
    peer.send(encodeRefused('image-larger', 'much \u001b[31mlarger\n'));
    return true;
  });
  await expectProblem(scene, 'image-larger', 'much ?[31mlarger?');
  expect(scene.pair.link.state).toBe('refused');
});

test.each([
  ['of what was not sent', () => ackOf(1000)],
  ['that go backwards', () => encodeAck(NO_POSITIONS)],
  ['out of their order', () => encodeAck({ ...NO_POSITIONS, received: 1, applied: 1, recorded: 1 })],
  ['cut short', () => encodeFrame(FrameType.ACK, { payload: Buffer.alloc(47) })],
])('acknowledgements %s end the session', async (_, ack) => {
  let lied = false;
  const scene = await meetInStep((frame, peer) => {
    if (frame.type !== FrameType.WRITE || lied) return false;
    lied = true;
    peer.send(ackOf(frame.sequence), ack());
    return true;
  });
  await scene.pair.write(5, randomBytes(5000));
  await expectProblem(scene, 'frame-invalid');
  // The next session resumes where the mirror says it is; this one says that it knows nothing.
  await scene.pair.untilInStep();
});

test('an acknowledgement of what waits behind a stuck connection ends the session', async () => {
  const scene = await meetInStep(() => false, { windowSize: 64 * MIB });
  const { pair, fake } = scene;
  const [peer] = fake.peers;
  peer!.pause();
  for (let index = 0; index < 40; index += 1) await pair.write(0, randomBytes(MIB));
  peer!.send(ackOf(pair.primary!.status().sequence));
  await pair.until('seen through', () => pair.link.problem?.code === 'frame-invalid');
  expect(pair.link.problem!.message).toContain('what was not sent');
});

test.each([
  [
    'a checkpoint that was not asked for',
    () => encodeFrame(FrameType.CHECKPOINT_DONE, { offset: 99 }),
    'a checkpoint that was not placed',
  ],
  ['the result of a check without a verify', () => encodeFrame(FrameType.CHECK_RESULT, { length: 4096 }), 'a verify'],
  [
    'digests that were not asked for',
    () => encodeFrame(FrameType.DIGEST_REPLY, { flags: 2, length: 4096, payload: Buffer.alloc(17) }),
    'was not asked',
  ],
  [
    'a write',
    () => encodeFrame(FrameType.WRITE, { sequence: 1, length: 1, payload: Buffer.alloc(1) }),
    'does not send',
  ],
  ['a second WELCOME', () => encodeWelcome(NOTHING_YET), 'does not send'],
])('%s ends the session, and the next one goes on', async (_, bytes, text) => {
  const scene = await meetInStep(() => false);
  scene.fake.peers[0]!.send(bytes());
  await expectProblem(scene, 'frame-invalid', text);
  await scene.pair.until('another session', () => scene.pair.link.sessions >= 2);
  await scene.pair.untilInStep();
});

test('a mirror that never admits a rescan does not hold up clients or a stop', async () => {
  const scene = await meet((frame) => frame.type === FrameType.RESCAN_REQUEST);
  await scene.pair.until('queued', () => scene.pair.link.state === 'queued');
  await scene.pair.write(5, randomBytes(5000), true);
  expect(scene.pair.link.lag.operations).toBe(1);
  await scene.pair.stopPrimary(100);
});

test('a mirror that is stuck in the middle of a seeding does not hold up clients or a stop, and memory stays bounded', async () => {
  const windowSize = MIB;
  const size = 128 * MIB;
  const { log } = memoryLog();
  const pair = await Pair.make({ log, size, primary: { windowSize } });
  const stuck: ReadonlySet<number> = new Set([FrameType.DIGEST_REQUEST, FrameType.WRITE, FrameType.BARRIER]);
  const fake = await FakeMirror.listen(pair.key, (frame) => stuck.has(frame.type));
  await pair.startPrimary({ mirror: fake.address });
  await pair.until('seeding', () => pair.link.state === 'seeding');
  // First where the pass has got to, until the window is full; then where it has not, with barriers.
  for (let index = 0; index < 4_000; index += 1) await pair.write((index % 16) * MIB, randomBytes(512));
  const flushes: Promise<void>[] = [];
  for (let index = 0; index < 10_000; index += 1) {
    await pair.write(size - (1 + (index % 16)) * MIB, randomBytes(512));
    flushes.push(Promise.resolve(pair.primary!.volume.flush()));
  }
  await Promise.all(flushes);
  expect(pair.link.window.used).toBeLessThanOrEqual(windowSize + 64 * KIB);
  expect(pair.link.state).toBe('seeding');
  await pair.stopPrimary(100);
});

test('a mirror that is slow to begin while the window overruns gets a rescan, not silence', async () => {
  let held: (() => void) | undefined;
  let hold = false;
  const scene = await meetInStep(
    (frame, peer, fake) => {
      if (frame.type === FrameType.HELLO && hold) {
        // In step, as a mirror is after a short break.
        const { generation, run, size } = fake.hellos[0]!;
        peer.send(
          encodeWelcome({
            ...NOTHING_YET,
            fresh: false,
            seeded: true,
            consistent: true,
            generation,
            run,
            size,
            checkpoint: 9,
          }),
        );
        return true;
      }
      if (frame.type !== FrameType.BEGIN || !hold) return false;
      hold = false;
      held = () => peer.send(ackOf(frame.sequence));
      return true;
    },
    { windowSize: MIB, spoolSize: 0 },
  );
  const { pair, fake } = scene;
  hold = true;
  fake.peers[0]!.destroy();
  await pair.until('the stream is to go on', () => held !== undefined && pair.link.state === 'catch-up');
  for (let index = 0; index < 8; index += 1) await pair.write(index * MIB, randomBytes(256 * KIB));
  held!();
  await pair.until('another session', () => fake.peers.length >= 3);
  await pair.untilInStep();
  expect(pair.link.markedSize).toBe(0);
});
