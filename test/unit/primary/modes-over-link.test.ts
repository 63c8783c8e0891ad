/** Modes between a primary and a mirror in memory, where time stands still unless it is moved. */
import { expect, it } from 'vitest';
import type { Mode } from '../../../src/base/mode.ts';
import { MIB } from '../../../src/base/units.ts';
import { MemoryPair } from '../../support/memory-pair.ts';

/** Both in step; nothing happens any more that somebody did not ask for. */
async function inStep(mode: Mode): Promise<MemoryPair> {
  const pair = await new MemoryPair().with(Buffer.alloc(4 * MIB));
  await pair.startMirror();
  await pair.startPrimary({ agreement: { mode, mirrorTimeoutMs: 10_000, onMirrorLoss: 'stall' } });
  await pair.until('agreeing', () => pair.link.state === 'streaming' && pair.link.agreement?.state === 'agreeing', 5);
  return pair;
}

it('in sync a write is answered after one round trip: no timer has to run out for it', async () => {
  const { primary, image, world } = await inStep('sync');
  const beganMs = world.clock.nowMs();
  for (let index = 0; index < 20; index += 1) {
    const fill = 1 + index;
    await primary.volume.write(index * 5000, Buffer.alloc(5000, fill), { fua: false });
    expect(image.content()[index * 5000]).toBe(fill);
  }
  expect(world.clock.nowMs()).toBe(beganMs);
});

it.each(['flush', 'sync'] as const)('in %s FLUSH and FUA are answered after one round trip', async (mode) => {
  const { primary, world } = await inStep(mode);
  const beganMs = world.clock.nowMs();
  const { volume } = primary;
  for (let index = 0; index < 20; index += 1) {
    if (index % 2 === 0) {
      await volume.write(index * 4096, Buffer.alloc(4096, 7), { fua: false });
      await volume.flush();
    } else await volume.write(index * 4096, Buffer.alloc(4096, 7), { fua: true });
    expect(primary.status().mirrors[0]!.durable).toBe(index + 1);
  }
  expect(world.clock.nowMs()).toBe(beganMs);
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
