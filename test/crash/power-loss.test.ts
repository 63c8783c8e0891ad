/**
 * Loss of power beneath real processes: primary or mirror, or both, keep their files on a disk that forgets what was not
 * flushed. They are killed in the same instant in which that disk loses its power.
 */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import type { Mode } from '../../src/base/mode.ts';
import { MIB } from '../../src/base/units.ts';
import { Chance } from '../support/chance.ts';
import { until } from '../support/daemon.ts';
import { judgeCrashState } from '../support/judge.ts';
import { needPrograms } from '../support/peers.ts';
import { PoweredFolder } from '../support/powered-folder.ts';
import { runProgram } from '../support/run-program.ts';
import { Rig, ROUNDS, timeoutOf } from './rig.ts';
import { freeze, SEED, thaw, Witness } from './witness.ts';

const SIZE = 24 * MIB;
/** A long run is longer here. */
const LOSSES = ROUNDS > 2 ? 2 * ROUNDS : ROUNDS;
/** Room for the disk, its state, and a second copy of it beside. */
const FOLDER_SIZE = 128 * MIB;

/** One side on a power supply of its own, in a folder that holds its file and everything that it keeps beside. */
async function supply(chance: Chance): Promise<PoweredFolder> {
  const folder = await PoweredFolder.make(FOLDER_SIZE, chance);
  await runProgram('truncate', ['-s', String(SIZE), join(folder.path, 'disk.img')]);
  await mkdir(join(folder.path, 'images'));
  // What a careful operator does too: the names are not to be lost.
  await runProgram('sync', ['-f', folder.path]);
  return folder;
}

/** A pair in step; a side without a supply is on an ordinary disk. */
async function inStep(
  chance: Chance,
  mode: Mode,
  primarys: PoweredFolder | undefined,
  mirrors: PoweredFolder | undefined,
): Promise<Witness> {
  const rig = await Rig.inStep({
    size: SIZE,
    serve: ['--window', '16M', '--mode', mode],
    ...(primarys === undefined ? {} : { disk: join(primarys.path, 'disk.img') }),
    ...(mirrors === undefined ? {} : { images: join(mirrors.path, 'images') }),
  });
  return Witness.of(rig, chance);
}

/** The kernel has written back something of a file that the disk was not told to keep: at this very instant it can be lost. */
async function untilUnsynced(folder: PoweredFolder, path: string): Promise<void> {
  const isUnsynced = async (): Promise<boolean> => {
    await folder.writeBack(path);
    return folder.disk.unsyncedCount > 0;
  };
  await until(isUnsynced, 'the disk has something to lose');
}

/** The first time nothing is kept, so that something is lost for certain. */
function survival(chance: Chance, round: number): 'none' | 'some' | 'all' {
  if (round === 0) return 'none';
  return (['none', 'all', 'some', 'some', 'some', 'some'] as const)[chance.below(6)]!;
}

needPrograms(
  `a loss of power (seed ${SEED})`,
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
    'of the mirror leaves it a crash state of what was answered, and it catches up',
    async () => {
      const chance = new Chance(SEED);
      const mirrors = await supply(chance);
      const witness = await inStep(chance, 'async', undefined, mirrors);
      const { rig } = witness;
      let lost = 0;
      for (let round = 0; round < LOSSES; round += 1) {
        await witness.startLoad();
        await witness.untilAnswered(50 + chance.below(500));
        await untilUnsynced(mirrors, rig.twin.image);
        rig.mirror.kill('SIGKILL');
        lost += mirrors.losePower(survival(chance, round));
        await rig.mirror.ended();
        await mirrors.powerUp();
        await mirrors.check();
        await witness.expectCrashState();
        await witness.untilAnswered(50);
        await rig.startMirror();
        await witness.untilAnswered(50);
        await witness.stopLoad();
        await witness.expectSettled();
      }
      expect(lost).toBeGreaterThan(0);
    },
    timeoutOf(LOSSES),
  );

  it(
    'of the primary loses nothing that was promised, and leaves the mirror a prefix until it is rescanned',
    async () => {
      const chance = new Chance(SEED);
      const primarys = await supply(chance);
      const witness = await inStep(chance, 'async', primarys, undefined);
      const { rig } = witness;
      let lost = 0;
      for (let round = 0; round < LOSSES; round += 1) {
        await witness.startLoad();
        await witness.untilAnswered(50 + chance.below(500));
        await untilUnsynced(primarys, rig.twin.disk);
        rig.primary.kill('SIGKILL');
        lost += primarys.losePower(survival(chance, round));
        await rig.primary.ended();
        await witness.stopLoad();
        await freeze(rig.mirror);
        await witness.expectPrefix();
        thaw(rig.mirror);
        await primarys.powerUp();
        await primarys.check();
        await witness.newLife((history, disk) => judgeCrashState(history, disk, history.promised));
        await rig.startPrimary();
        await witness.startLoad();
        await witness.untilAnswered(50);
        await witness.stopLoad();
        await witness.expectSettled();
      }
      expect(lost).toBeGreaterThan(0);
    },
    timeoutOf(LOSSES),
  );

  it(
    'of both in mode flush leaves each of them a crash state with all that was promised, and they find together',
    async () => {
      const chance = new Chance(SEED);
      const [primarys, mirrors] = [await supply(chance), await supply(chance)];
      const witness = await inStep(chance, 'flush', primarys, mirrors);
      const { rig } = witness;
      for (let round = 0; round < LOSSES; round += 1) {
        await witness.startLoad();
        await witness.untilAnswered(50 + chance.below(500));
        await primarys.writeBack(rig.twin.disk);
        await mirrors.writeBack(rig.twin.image);
        for (const daemon of [rig.primary, rig.mirror]) daemon.kill('SIGKILL');
        for (const folder of [primarys, mirrors]) folder.losePower(survival(chance, round));
        await Promise.all([rig.primary.ended(), rig.mirror.ended()]);
        await witness.stopLoad();
        for (const folder of [primarys, mirrors]) {
          await folder.powerUp();
          await folder.check();
        }
        await witness.expectCrashState(witness.history.promised);
        await witness.newLife((history, disk) => judgeCrashState(history, disk, history.promised));
        await rig.startMirror();
        await rig.startPrimary();
        await witness.startLoad();
        await witness.untilAnswered(50);
        await witness.stopLoad();
        await witness.expectSettled();
      }
    },
    timeoutOf(LOSSES),
  );
});
