/** Modes between a primary and a mirror in memory, where time stands still unless it is moved. */
import { expect, it, onTestFinished } from 'vitest';
import { silentLog } from '../../../src/base/log.ts';
import type { Mode } from '../../../src/base/mode.ts';
import { MIB } from '../../../src/base/units.ts';
import { openMirror } from '../../../src/mirror/open-mirror.ts';
import { openPrimary } from '../../../src/primary/open-primary.ts';
import type { Primary } from '../../../src/primary/primary.ts';
import { DiskVolume } from '../../../src/volume/disk-volume.ts';
import { memoryWorld, turns } from '../../support/memory-world.ts';

const SIZE = 4 * MIB;
const ADDRESS = { kind: 'tcp', host: 'mirror', port: 10810 } as const;

/** Both in step; nothing happens any more that somebody did not ask for. */
async function inStep(mode: Mode): Promise<{ primary: Primary; content(): Buffer; nowMs(): number }> {
  const world = memoryWorld();
  const { files, clock } = world;
  await files.makeDirectory('/mirrors');
  files.put('/disk.img', Buffer.alloc(SIZE));
  const disk = await files.openDisk('/disk.img', { lock: 'exclusive' });
  const tls = { keys: [] };
  const mirror = await openMirror(world, silentLog, { directory: '/mirrors', listen: ADDRESS, tls });
  const primary = await openPrimary(world, silentLog, {
    volume: new DiskVolume(disk),
    disk,
    stateDirectory: '/disk.img.twin',
    exportName: 'disk',
    mirror: ADDRESS,
    tls,
    windowSize: MIB,
    rescanRate: undefined,
    rekeySize: 2 ** 40,
    rekeyIntervalMs: 2 ** 30,
    rescanAll: false,
    agreement: { mode, mirrorTimeoutMs: 10_000, onMirrorLoss: 'stall' },
  });
  const pump = async (done: () => boolean): Promise<void> => {
    for (let round = 0; round < 2_000 && !done(); round += 1) {
      await turns(3);
      clock.advance(5);
    }
    if (!done()) throw new Error(`not in time: ${JSON.stringify(primary.status())}`);
  };
  onTestFinished(async () => {
    let closed = false;
    const closing = Promise.all([primary.close(0), mirror.close()]).then(() => {
      closed = true;
    });
    await pump(() => closed);
    await closing;
  });
  await pump(() => {
    const { state, agreement } = primary.status().mirrors[0]!;
    return state === 'streaming' && (agreement === undefined || agreement.state === 'agreeing');
  });
  return {
    primary,
    content: () => files.file('/mirrors/disk.img').disk.content(),
    nowMs: () => clock.nowMs(),
  };
}

it('in sync a write is answered after one round trip: no timer has to run out for it', async () => {
  const { primary, content, nowMs } = await inStep('sync');
  const beganMs = nowMs();
  for (let index = 0; index < 20; index += 1) {
    const fill = 1 + index;
    await primary.volume.write(index * 5000, Buffer.alloc(5000, fill), { fua: false });
    expect(content()[index * 5000]).toBe(fill);
  }
  expect(nowMs()).toBe(beganMs);
});

it.each(['flush', 'sync'] as const)('in %s FLUSH and FUA are answered after one round trip', async (mode) => {
  const { primary, nowMs } = await inStep(mode);
  const beganMs = nowMs();
  const { volume } = primary;
  for (let index = 0; index < 20; index += 1) {
    if (index % 2 === 0) {
      await volume.write(index * 4096, Buffer.alloc(4096, 7), { fua: false });
      await volume.flush();
    } else await volume.write(index * 4096, Buffer.alloc(4096, 7), { fua: true });
    expect(primary.status().mirrors[0]!.durable).toBe(index + 1);
  }
  expect(nowMs()).toBe(beganMs);
});

it('in sync 32 writes that are asked for together are acknowledged together', async () => {
  const { primary } = await inStep('sync');
  const before = primary.status().mirrors[0]!.wireReceived;
  await Promise.all(
    Array.from({ length: 32 }, (_, index) =>
      primary.volume.write(index * 4096, Buffer.alloc(4096, 1), { fua: false }),
    ).map((pending) => Promise.resolve(pending)),
  );
  // An ACK takes 80 bytes.
  expect(primary.status().mirrors[0]!.wireReceived - before).toBe(80);
});
