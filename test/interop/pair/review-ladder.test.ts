/** Where window, spool, merged parts and staged runs meet: orders of events in which something was once lost or stuck. */
import { randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { KIB, MIB } from '../../../src/base/units.ts';
import type { Disk, FileSystem } from '../../../src/io/disk.ts';
import { nodeFileSystem } from '../../../src/io/node-file-system.ts';
import { encodeFrame, FRAME_COMPLETE, type Frame, FrameType } from '../../../src/link/frame.ts';
import { decodeHello, encodeWelcome } from '../../../src/link/messages.ts';
import { MIRROR_STATE } from '../../../src/store/mirror-state.ts';
import { openStateFile } from '../../../src/store/state-file.ts';
import { Pair } from '../../support/pair.ts';
import { ackOf, FakeMirror, NOTHING_YET } from '../../support/raw-link.ts';

/** A window and a spool that a test fills in a moment. */
const SMALL = { windowSize: 512 * KIB, spoolSize: 16 * MIB };

async function writeMany(pair: Pair, from: number, count: number): Promise<void> {
  for (let index = 0; index < count; index += 1) await pair.write(from + index * 64 * KIB, randomBytes(64 * KIB));
}

/** The real files, whose disks say that there is no room to reserve, while told so. */
function withoutRoom(isFull: () => boolean): FileSystem {
  const openDisk: FileSystem['openDisk'] = async (path, options) => {
    const disk = await nodeFileSystem.openDisk(path, options);
    return new Proxy(disk, {
      get(target, name: keyof Disk) {
        if (name === 'reserve' && isFull()) return () => Promise.reject(new Failure('no-space', 'made by the test'));
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
  };
  return { ...boundFiles(), openDisk };
}

function boundFiles(): FileSystem {
  const names = [
    'openState',
    'readFile',
    'replaceFile',
    'makeDirectory',
    'lockDirectory',
    'exists',
    'inodeOf',
  ] as const;
  const more = ['list', 'remove', 'syncDirectory', 'freeSize'] as const;
  const bound = [...names, ...more].map((name) => [name, nodeFileSystem[name].bind(nodeFileSystem)]);
  return Object.fromEntries(bound) as FileSystem;
}

test('what finds no room in a rescan is compared only once the spool has no older operation on it', async () => {
  const pair = await Pair.inStep({ size: 64 * MIB, primary: { windowSize: 512 * KIB, spoolSize: 12 * MIB } });
  // Order is given up while the link is cut: a rescan is due.
  pair.proxy.cut();
  await writeMany(pair, 36 * MIB, 300);
  await pair.until('behind', () => pair.link.markedSize > 0);
  pair.proxy.rate = 2 * MIB;
  pair.proxy.restore();
  await pair.until('the rescan runs', () => pair.link.state === 'rescan');
  // Fills window and spool, then an operation, then more than there is room for, then another on the same place.
  let at = MIB;
  const fill = async (): Promise<void> => {
    await pair.write(at, randomBytes(64 * KIB));
    at += 64 * KIB;
  };
  while (pair.link.spool.used < 11 * MIB) await fill();
  await pair.write(30 * MIB, Buffer.alloc(4 * KIB, 0x11));
  const before = pair.link.markedSize;
  for (let count = 0; count < 400 && pair.link.markedSize <= before; count += 1) await fill();
  const marked = pair.link.markedSize;
  await pair.write(30 * MIB, Buffer.alloc(64 * KIB, 0x22));
  expect(pair.link.markedSize).toBeGreaterThan(marked);
  const { sessions } = pair.link;
  pair.proxy.drop();
  await pair.until('another session rescans', () => pair.link.sessions > sessions && pair.link.state === 'rescan');
  pair.proxy.rate = undefined;
  await pair.untilInStep(60_000);
  pair.expectIdentical();
});

test('a mirror that did not stop cleanly catches up though what it may hold was merged meanwhile', async () => {
  const pair = await Pair.inStep({ size: 64 * MIB, primary: { windowSize: 512 * KIB, spoolSize: 32 * MIB } });
  await pair.stopMirror();
  await writeMany(pair, 10 * MIB, 80);
  await pair.stopPrimary(0);
  const file = (await openStateFile(pair.world.files, MIRROR_STATE, `${pair.imagePath}.twin/mirror`))!;
  await file.write({ ...file.state, clean: false });
  await file.close();
  await pair.startPrimary();
  await writeMany(pair, 20 * MIB, 190);
  await pair.until('merged', () => pair.link.spool.rung === 'merged');
  await pair.startMirror();
  await pair.untilInStep(30_000);
  pair.expectIdentical();
});

test('a merged part that was staged whole, and not committed for lack of space, is committed once there is some', async () => {
  let full = false;
  const pair = await Pair.inStep({ size: 64 * MIB, mirrorWorld: { files: withoutRoom(() => full) }, primary: SMALL });
  pair.proxy.cut();
  await writeMany(pair, 0, 160);
  await pair.until('merged', () => pair.link.spool.rung === 'merged');
  full = true;
  pair.proxy.restore();
  await pair.until('no room', () => pair.link.problem?.code === 'staging-full', 30_000);
  full = false;
  await pair.untilInStep(30_000);
  pair.expectIdentical();
});

test('a merged part for which the mirror has no room is not sent again and again', async () => {
  const limit = { limit: 2 * MIB, overflow: 'keep' } as const;
  const pair = await Pair.inStep({ size: 64 * MIB, mirror: { staging: limit }, primary: SMALL });
  pair.proxy.cut();
  await writeMany(pair, 0, 160);
  await pair.until('merged', () => pair.link.spool.rung === 'merged');
  pair.proxy.restore();
  await pair.until('no room', () => pair.link.problem?.code === 'staging-full', 30_000);
  const { wireSent } = pair.link;
  const refusals = (): number => pair.proxy.connections;
  const first = refusals();
  await pair.until('asked again, and again', () => refusals() >= first + 3, 30_000);
  expect(pair.link.wireSent - wireSent).toBeLessThan(MIB);
  expect(pair.link.staging.needed).toBeGreaterThan(2 * MIB);
  expect(pair.mirror!.status().exports[0]!.consistent).toBe(true);
});

test('an acknowledgement that comes together with the end of a rescan counts', async () => {
  const pair = await Pair.make({ size: 4 * MIB });
  let complete: Frame | undefined;
  const fake = await FakeMirror.listen(pair.key, (frame, peer) => {
    if (frame.type === FrameType.HELLO) {
      const hello = decodeHello(frame);
      const { generation, size } = hello;
      const replicaId = Buffer.alloc(16, 9);
      peer.send(encodeWelcome({ ...NOTHING_YET, fresh: false, seeded: true, replicaId, generation, size }));
      fake.hellos.push(hello);
      return true;
    }
    if (frame.type === FrameType.CHECKPOINT && (frame.flags & FRAME_COMPLETE) !== 0) {
      complete = frame;
      return true;
    }
    if (frame.type !== FrameType.WRITE || complete === undefined) return false;
    const { sequence, offset } = complete;
    complete = undefined;
    // The copy took a while: what follows was applied, synced and recorded before the primary read on.
    peer.send(encodeFrame(FrameType.CHECKPOINT_DONE, { sequence, offset }), ackOf(frame.sequence));
    return true;
  });
  const agreement = { mode: 'sync', mirrorTimeoutMs: 60_000, onMirrorLoss: 'stall' } as const;
  await pair.startPrimary({ mirror: fake.address, agreement });
  await pair.until('everything is compared', () => complete !== undefined);
  await pair.write(5, Buffer.alloc(4096, 1));
  await pair.until('recorded', () => pair.link.recorded > 0);
  expect(pair.link.recorded).toBe(1);
});
