/** Either side dies at each named point of its code, which the test brings it to; nothing may be lost or mixed up by that. */
import { expect, it } from 'vitest';
import { KIB, MIB } from '../../src/base/units.ts';
import { POINT_NAMES, type PointName } from '../../src/io/points.ts';
import { Chance } from '../support/chance.ts';
import { type Daemon, until } from '../support/daemon.ts';
import { judgePrefix } from '../support/judge.ts';
import { needPrograms } from '../support/peers.ts';
import { Rig, type RigOptions } from './rig.ts';
import { freeze, SEED, thaw, Witness } from './witness.ts';

const SIZE = 8 * MIB;

/**
 * How a point is brought about, with the process that is to die there started for it: `begin` is called once it has
 * been, unless it died on the way.
 */
interface Provocation {
  readonly options?: RigOptions;
  /** Before the process is started, which it may have stopped. */
  prepare?(witness: Witness): Promise<void>;
  begin(witness: Witness): Promise<void>;
}

/** Writes, zeroes, trims and flushes, in step. */
const load: Provocation = { begin: (witness) => witness.startLoad() };

/** Few regions stay marked: marks come and go. */
const wandering: Provocation = { ...load, options: { serve: ['--dirty-active', '4'] } };

/** It is asked to stop, with something left to send. */
const stop: Provocation = {
  options: { serve: ['--window', '16M', '--drain-timeout', '1s'] },
  async begin(witness) {
    const { rig } = witness;
    await witness.startLoad();
    await witness.untilAnswered(50);
    rig.proxy.stall();
    await witness.untilAnswered(50);
    await witness.stopLoad();
    rig.primary.kill('SIGTERM');
  },
};

/** The mirror is asked to stop. */
const stopMirror: Provocation = {
  async begin(witness) {
    await witness.startLoad();
    await witness.untilAnswered(50);
    witness.rig.mirror.kill('SIGTERM');
  },
};

/** The primary has died with something that the mirror does not have: a rescan of it follows. */
const rescan: Provocation = {
  async prepare(witness) {
    const { rig } = witness;
    await rig.mirror.stop();
    await witness.startLoad();
    await witness.untilAnswered(100);
    await rig.primary.crash();
    await witness.stopLoad();
    await judgeDisk(witness);
  },
  async begin(witness) {
    await witness.rig.startPrimary();
    await witness.startLoad();
  },
};

/** The link is away for longer than memory lasts, and comes back. */
function outage(serve: readonly string[], hotSize: number): Provocation {
  return {
    options: { serve },
    async begin(witness) {
      const { rig } = witness;
      await witness.startLoad({ size: hotSize });
      await witness.untilAnswered(20);
      rig.proxy.cut();
      await witness.untilAnswered(1000);
      rig.proxy.restore();
    },
  };
}

const spool = outage(['--window', '1M', '--spool-size', '64M'], 4 * MIB);
const merge = outage(['--window', '1M', '--spool-size', '2M'], 512 * KIB);
const tooMuch = outage(['--window', '1M', '--spool-size', '1M'], SIZE);

const PROVOCATIONS: Record<PointName, Provocation> = {
  'primary-run-recorded': load,
  'primary-marks-written': load,
  'primary-marks-cleared': wandering,
  'primary-spool-begun': spool,
  'primary-spool-read': spool,
  'primary-merge-begun': merge,
  'primary-merge-frozen': merge,
  'primary-merge-sent': merge,
  'primary-order-given-up': tooMuch,
  'primary-backlog-persisted': stop,
  'primary-clean-recorded': stop,
  // Has a test of its own: before it there is no mirror that could be judged.
  'mirror-image-created': load,
  'mirror-session-recorded': load,
  'mirror-epoch-synced': load,
  'mirror-position-recorded': load,
  'mirror-map-version-recorded': wandering,
  'mirror-staging-begun': rescan,
  'mirror-staging-synced': rescan,
  'mirror-space-reserved': rescan,
  'mirror-commit-recorded': rescan,
  'mirror-copy-begun': rescan,
  'mirror-copy-synced': rescan,
  'mirror-copy-recorded': rescan,
  'mirror-staging-removed': rescan,
  'mirror-clean-recorded': stopMirror,
};

/** The primary has died: what was answered must be there. Another life begins. */
async function judgeDisk(witness: Witness): Promise<void> {
  await witness.newLife((history, disk) =>
    judgePrefix(history, disk, { since: history.clock, tornMax: history.mutations.length }),
  );
}

/** Starts a side that will die at the point; it may do so on the way, with or without having been ready. */
async function startDoomed(rig: Rig, side: 'primary' | 'mirror', point: string): Promise<Daemon | undefined> {
  const options = { env: { NBDTWIN_CRASH_AT: point } };
  const starting = side === 'primary' ? rig.startPrimary(options) : rig.startMirror(options);
  return starting.catch((error: unknown) => {
    if (!String(error).includes('ended with SIGKILL')) throw error;
    return undefined;
  });
}

/** It must have died where it was to die: a process that ends in another way has not been there. */
async function expectDead(doomed: Daemon | undefined, point: string): Promise<void> {
  if (doomed === undefined) return;
  let signal: NodeJS.Signals | null | undefined;
  void doomed.exited.then((exit) => {
    signal = exit.signal;
  });
  await until(() => signal !== undefined, `it comes to ${point}`, 30_000);
  expect(signal).toBe('SIGKILL');
}

needPrograms(
  `at a named point (seed ${SEED})`,
  'cmp',
)(() => {
  it.each(POINT_NAMES.filter((name) => name !== 'mirror-image-created'))('%s', async (point) => {
    const side = point.startsWith('primary') ? 'primary' : 'mirror';
    const provocation = PROVOCATIONS[point];
    const rig = await Rig.inStep({ size: SIZE, ...provocation.options });
    const witness = await Witness.of(rig, new Chance(SEED));
    await provocation.prepare?.(witness);
    expect(await rig[side].stop()).toEqual({ status: 0, signal: null });
    const doomed = await startDoomed(rig, side, point);
    if (doomed !== undefined) {
      // It may die in the middle of what is done to it.
      const begun = provocation.begin(witness);
      begun.catch(() => undefined);
      await expectDead(doomed, point);
      await begun.catch(() => undefined);
    }

    rig.proxy.restore();
    if (side === 'mirror') {
      await witness.expectPrefix({ tornMax: 1 });
      await rig.startMirror();
    } else {
      await witness.stopLoad();
      await freeze(rig.mirror);
      await witness.expectPrefix({ tornMax: 1 });
      thaw(rig.mirror);
      await judgeDisk(witness);
      await rig.startPrimary();
    }
    if (!witness.isUnderLoad) await witness.startLoad();
    await witness.untilAnswered(50);
    await witness.stopLoad();
    await witness.expectSettled();
  });

  it('mirror-image-created', async () => {
    const rig = await Rig.stopped({ size: SIZE });
    const doomed = await startDoomed(rig, 'mirror', 'mirror-image-created');
    await rig.startPrimary();
    await expectDead(doomed, 'mirror-image-created');
    await rig.startMirror();
    const witness = await Witness.of(rig, new Chance(SEED));
    await witness.startLoad();
    await witness.untilAnswered(50);
    await witness.stopLoad();
    await witness.expectSettled();
  });
});
