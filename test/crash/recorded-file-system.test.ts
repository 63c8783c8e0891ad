/** A file system in use, with a recorder between it and the primary: what the mirror holds is judged when something dies. */
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { BlockDevice } from '../support/block-device.ts';
import { Chance } from '../support/chance.ts';
import { PROGRAM } from '../support/daemon.ts';
import { EXT4 } from '../support/file-system.ts';
import { judgePrefix } from '../support/judge.ts';
import { needPrograms } from '../support/peers.ts';
import { runProgram } from '../support/run-program.ts';
import { serveVolume } from '../support/serve-volume.ts';
import { Rig, ROUNDS, timeoutOf } from './rig.ts';
import { freeze, recover, SEED, thaw, Witness } from './witness.ts';

const MODULES = join(PROGRAM, '../../node_modules');
/** Some 5 MB in many small files. */
const TREE = ['commander', 'pino', 'fast-check'];

/** Copies files, removes and syncs them, until it is stopped or the disk fails. This process serves their disk. */
class Churn {
  readonly #point: string;
  readonly #running: Promise<void>;
  #stopped = false;

  constructor(point: string) {
    this.#point = point;
    this.#running = this.#run();
    // Looked at in `stop`; until then a failure must not count as unhandled.
    this.#running.catch(() => undefined);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }

  async #run(): Promise<void> {
    for (let turn = 0; !this.#stopped; turn = (turn + 1) % 3) {
      const folder = join(this.#point, `churn${turn}`);
      await runProgram('rm', ['-rf', folder]);
      await runProgram('mkdir', [folder]);
      for (const name of TREE) await runProgram('cp', ['-rL', join(MODULES, name), folder]);
      await runProgram('sync', ['-f', this.#point]);
    }
  }
}

/** Replays the journal of a copy of the mirror's image, which must then be without fault. */
async function expectSound(witness: Witness): Promise<void> {
  const copy = await witness.copyMirror();
  await recover(copy);
  const device = await BlockDevice.ofCopy(copy);
  await device.mount();
  await device.unmount();
  const [program, ...args] = EXT4.check;
  await runProgram(program, [...args, device.path]);
  await device.detach();
}

async function attach(witness: Witness, name: string): Promise<BlockDevice> {
  const { uri } = await serveVolume(await witness.record(), join(witness.rig.twin.folder, name));
  return BlockDevice.attach(uri);
}

needPrograms(
  `a recorded file system (seed ${SEED})`,
  'cmp',
  'nbdfuse',
  'fusermount3',
  'losetup',
  'mount',
  'umount',
  'mkfs.ext4',
  'e2fsck',
  'fuse-device',
  'loop-device',
)(() => {
  it(
    'is a prefix on the mirror, and without fault, whenever the mirror is killed or the primary is',
    async () => {
      const rig = await Rig.inStep({ size: EXT4.size, serve: ['--window', '64M', '--rescan-rate', '60M'] });
      const witness = await Witness.of(rig, new Chance(SEED));
      const { chance } = witness;
      const empty = await attach(witness, 'empty.sock');
      const [program, ...args] = EXT4.make;
      await runProgram(program, [...args, empty.path]);
      await empty.detach();
      await witness.stopLoad();
      await witness.expectSettled();
      for (let round = 0; round < ROUNDS; round += 1) {
        const device = await attach(witness, `${round}.sock`);
        const churn = new Churn(await device.mount());
        await witness.untilAnswered(50 + chance.below(300));
        await rig.mirror.crash();
        await witness.expectPrefix({ tornMax: 1 });
        await expectSound(witness);
        await witness.untilAnswered(50);
        await rig.startMirror();
        await witness.untilAnswered(50 + chance.below(300));
        await rig.primary.crash();
        await expect(churn.stop()).rejects.toThrow(/ended with/);
        await device.detach();
        await witness.stopLoad();
        await freeze(rig.mirror);
        await witness.expectPrefix({ tornMax: 1 });
        await expectSound(witness);
        thaw(rig.mirror);
        await witness.newLife((history, disk) =>
          judgePrefix(history, disk, { since: history.clock, tornMax: history.mutations.length }),
        );
        await rig.startPrimary();
        await witness.expectSettled();
      }
    },
    timeoutOf(ROUNDS),
  );
});
