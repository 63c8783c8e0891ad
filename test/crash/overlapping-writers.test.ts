import { expect, it } from 'vitest';
import { KIB } from '../../src/base/units.ts';
import { runOverlappingWriters } from '../support/fio.ts';
import { Noise } from '../support/noise.ts';
import { needPrograms } from '../support/peers.ts';
import { Rig, ROUNDS } from './rig.ts';

const REGION_SIZE = 64 * KIB;
const RUNTIME_MS = Math.max(15_000, ROUNDS * 6_000);

needPrograms(
  'four writers to the same 64 KiB, on four connections',
  'fio',
  'cmp',
)(() => {
  it(
    'leave both images the same, together with a client that trims and zeroes there too',
    async () => {
      const rig = await Rig.inStep({ serve: ['--window', '2G'] });
      const { socket } = rig.twin;
      const { lastRescan } = await rig.link();
      const noise = await Noise.start({
        socket,
        offset: 0,
        size: REGION_SIZE,
        connections: 1,
        depth: 16,
        pauseMs: 1,
      });
      const written = await runOverlappingWriters({
        uri: rig.uri,
        count: 4,
        size: REGION_SIZE,
        runtimeMs: RUNTIME_MS,
      });
      await noise.stop();
      // Every byte has been written over many times, and all of it went through the stream, in order.
      expect(written).toBeGreaterThan(100 * REGION_SIZE);
      expect(noise.mutations).toBeGreaterThan(1000);
      await rig.expectIdentical();
      expect((await rig.link()).lastRescan).toEqual(lastRescan);
    },
    RUNTIME_MS + 120_000,
  );
});
