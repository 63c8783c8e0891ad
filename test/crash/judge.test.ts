import { expect, it } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import { FioLoad } from '../support/fio.ts';
import { needPrograms } from '../support/peers.ts';
import { Twin } from '../support/twin.ts';

needPrograms(
  'fio as the judge',
  'fio',
)(() => {
  it('finds what was written, and finds out when some of it is lost', async () => {
    const twin = await Twin.inStep({ size: 64 * MIB, socket: true });
    const uri = `nbd+unix:///?socket=${twin.socket}`;
    const load = FioLoad.start({ folder: twin.folder, uri, size: 64 * MIB, jobs: 1, rate: 4 * MIB, seed: 1 });
    await expect
      .poll(async () => (await twin.primary.serveStatus()).replication!.sequence, { timeout: 30_000 })
      .toBeGreaterThan(300);
    await load.stop();
    const blocks = await load.verify();
    expect(blocks).toBeGreaterThan(200);
    const client = await twin.connect();
    // Some of it, wherever fio has written: it has not written everywhere.
    await client.zero(0, 16 * MIB);
    await client.close();
    await expect(load.verify()).rejects.toThrow(/verify: bad/);
  });
});
