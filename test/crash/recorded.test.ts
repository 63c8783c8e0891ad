/** The mirror's image is judged by the recorded history at the instant at which something dies. */
import { expect, it } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import { Chance } from '../support/chance.ts';
import { judgePrefix } from '../support/judge.ts';
import { needPrograms } from '../support/peers.ts';
import { Rig, ROUNDS, timeoutOf } from './rig.ts';
import { freeze, SEED, thaw, Witness } from './witness.ts';

const SIZE = 32 * MIB;

async function inStep(serve: readonly string[] = []): Promise<Witness> {
  return Witness.of(await Rig.inStep({ size: SIZE, serve }), new Chance(SEED));
}

needPrograms(
  'at a random instant',
  'cmp',
)(() => {
  it(
    `a mirror that is frozen, or killed, holds a prefix of what was answered (seed ${SEED})`,
    async () => {
      const witness = await inStep();
      const { rig, chance } = witness;
      for (let round = 0; round < ROUNDS; round += 1) {
        await witness.startLoad();
        for (let instant = 0; instant < 3; instant += 1) {
          await witness.untilAnswered(100 + chance.below(400));
          await freeze(rig.mirror);
          await witness.expectPrefix({ tornMax: 1 });
          thaw(rig.mirror);
        }
        await witness.untilAnswered(chance.below(400));
        await rig.mirror.crash();
        await witness.expectPrefix({ tornMax: 1 });
        await witness.untilAnswered(100);
        await rig.startMirror();
        // While it catches up.
        await freeze(rig.mirror);
        await witness.expectPrefix({ tornMax: 1 });
        thaw(rig.mirror);
        await witness.untilAnswered(100);
        await witness.stopLoad();
        await witness.expectSettled();
      }
    },
    timeoutOf(ROUNDS),
  );

  it(
    `a primary that is killed leaves a prefix on both sides, and the mirror one while it is rescanned (seed ${SEED})`,
    async () => {
      const witness = await inStep(['--rescan-rate', '16M']);
      const { rig, chance } = witness;
      for (let round = 0; round < ROUNDS; round += 1) {
        await witness.startLoad();
        await witness.untilAnswered(100 + chance.below(1000));
        // What the primary does alone is for the rescan to bring.
        rig.proxy.cut();
        await witness.untilAnswered(200);
        await rig.primary.crash();
        await witness.stopLoad();
        rig.proxy.restore();
        await freeze(rig.mirror);
        await witness.expectPrefix();
        thaw(rig.mirror);
        // The page cache of a killed process survives: everything that was answered is there.
        await witness.newLife((history, disk) =>
          judgePrefix(history, disk, { since: history.clock, tornMax: history.mutations.length }),
        );
        await rig.startPrimary();
        await witness.startLoad();
        await rig.untilLink('a rescan runs', (link) => link.rescan !== undefined);
        for (let instant = 0; instant < 3; instant += 1) {
          await witness.untilAnswered(chance.below(300));
          await freeze(rig.mirror);
          await witness.expectPrefix({ tornMax: 1 });
          thaw(rig.mirror);
        }
        await witness.stopLoad();
        await witness.expectSettled();
        expect((await rig.link()).lastRescan).toBeDefined();
      }
    },
    timeoutOf(ROUNDS),
  );
});
