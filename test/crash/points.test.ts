/**
 * Either side dies at each named point of its code, which the test brings it to; nothing may be lost or mixed up by that.
 *
 * Points that are come to in the same circumstances share a pair, one after the other: after each of them both sides go
 * on, until they are in step, and everything is judged.
 */
import { expect, it } from 'vitest';
import { KIB, MIB } from '../../src/base/units.ts';
import { POINT_NAMES, type PointName } from '../../src/io/points.ts';
import { Chance } from '../support/chance.ts';
import { type Daemon, until } from '../support/daemon.ts';
import { judgePrefix } from '../support/judge.ts';
import { needPrograms } from '../support/peers.ts';
import { Rig, timeoutOf } from './rig.ts';
import { freeze, SEED, thaw, Witness } from './witness.ts';

const SIZE = 8 * MIB;
/** Before it there is no mirror that could be judged. */
const BEFORE_ANY_IMAGE: PointName = 'mirror-image-created';

/** How a point is brought about. */
interface Provocation {
  /** Before the process that is to die is started; it may have been stopped. */
  prepare?(witness: Witness): Promise<void>;
  /** It has been started, unless it died on the way. */
  begin(witness: Witness): Promise<void>;
}

/** Writes, zeroes, trims and flushes, in step. */
const load: Provocation = { begin: (witness) => witness.startLoad() };

/** With pauses in which everything becomes durable on both sides: only then can a mark go. */
const slowLoad: Provocation = { begin: (witness) => witness.startLoad({ depth: 4, pauseMs: 700 }) };

/** The primary is asked to stop, with something left to send. */
const stop: Provocation = {
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
    await witness.untilAnswered(40);
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
function outage(hotSize: number): Provocation {
  return {
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

/** Points that share a pair. */
interface Circumstances {
  readonly text: string;
  /** More arguments of `nbdtwin serve`. */
  readonly serve: readonly string[];
  readonly points: readonly (readonly [point: PointName, provocation: Provocation])[];
}

const CIRCUMSTANCES: readonly Circumstances[] = [
  {
    text: 'the primary, in step and stopping',
    serve: ['--window', '16M', '--drain-timeout', '1s'],
    points: [
      ['primary-run-recorded', load],
      ['primary-marks-written', load],
      ['primary-backlog-persisted', stop],
      ['primary-clean-recorded', stop],
    ],
  },
  {
    text: 'the mirror, in step and stopping',
    serve: [],
    points: [
      ['mirror-session-recorded', load],
      ['mirror-epoch-synced', load],
      ['mirror-position-recorded', load],
      ['mirror-clean-recorded', stopMirror],
    ],
  },
  {
    text: 'the mirror, while it is rescanned',
    serve: [],
    points: [
      ['mirror-staging-begun', rescan],
      ['mirror-staging-synced', rescan],
      ['mirror-space-reserved', rescan],
      ['mirror-commit-recorded', rescan],
      ['mirror-copy-begun', rescan],
      ['mirror-copy-synced', rescan],
      ['mirror-copy-recorded', rescan],
      ['mirror-staging-removed', rescan],
    ],
  },
  {
    text: 'either, while marks come and go: few regions stay marked',
    serve: ['--dirty-active', '4'],
    points: [
      ['mirror-map-version-recorded', load],
      ['primary-marks-cleared', slowLoad],
    ],
  },
  {
    text: 'the primary, which spools',
    serve: ['--window', '1M', '--spool-size', '64M'],
    points: [
      ['primary-spool-begun', outage(4 * MIB)],
      ['primary-spool-read', outage(4 * MIB)],
    ],
  },
  {
    text: 'the primary, which merges',
    serve: ['--window', '1M', '--spool-size', '2M'],
    points: [
      ['primary-merge-begun', outage(512 * KIB)],
      ['primary-merge-frozen', outage(512 * KIB)],
      ['primary-merge-sent', outage(512 * KIB)],
    ],
  },
  {
    text: 'the primary, which has no more room for order',
    serve: ['--window', '1M', '--spool-size', '1M'],
    points: [['primary-order-given-up', outage(SIZE)]],
  },
];

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

/** A side dies at a point; what it leaves is judged, and both go on until they are in step. */
async function expectRecovery(witness: Witness, point: PointName, provocation: Provocation): Promise<void> {
  const { rig } = witness;
  const side = point.startsWith('primary') ? 'primary' : 'mirror';
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
  await witness.untilAnswered(30);
  await witness.stopLoad();
  await witness.expectSettled();
}

needPrograms(
  `at a named point (seed ${SEED})`,
  'cmp',
)(() => {
  it.each(CIRCUMSTANCES)(
    '$text',
    async ({ serve, points }) => {
      const witness = await Witness.of(await Rig.inStep({ size: SIZE, serve }), new Chance(SEED));
      for (const [point, provocation] of points) {
        await expectRecovery(witness, point, provocation).catch((error: unknown) => {
          throw new Error(`at ${point}: ${String(error)}`, { cause: error });
        });
      }
    },
    timeoutOf(4),
  );

  it('the mirror, whose image is there and nothing else yet', async () => {
    const rig = await Rig.stopped({ size: SIZE });
    const doomed = await startDoomed(rig, 'mirror', BEFORE_ANY_IMAGE);
    await rig.startPrimary();
    await expectDead(doomed, BEFORE_ANY_IMAGE);
    await rig.startMirror();
    const witness = await Witness.of(rig, new Chance(SEED));
    await witness.startLoad();
    await witness.untilAnswered(50);
    await witness.stopLoad();
    await witness.expectSettled();
  });

  it('leaves out none', () => {
    const points = CIRCUMSTANCES.flatMap((circumstances) => circumstances.points.map(([point]) => point));
    expect([...points, BEFORE_ANY_IMAGE].sort()).toEqual([...POINT_NAMES].sort());
  });
});
