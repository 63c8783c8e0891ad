/**
 * Scripted lives in the simulated world, each about one sequence of events. All that the simulator checks is checked here
 * too (positions, crash states, marks, promises, the same image in the end); beyond that each proves, by named points and
 * by states seen, that what its name says has happened.
 */
import { describe, expect, it } from 'vitest';
import { KIB, MIB } from '../../src/base/units.ts';
import type { PointName } from '../../src/io/points.ts';
import { IMAGE_PATH } from './mirror-side.ts';
import type { Profile } from './profile.ts';
import { Simulation } from './simulation.ts';

const STEPS = 60_000;

/** A quiet life: nothing goes wrong by itself. */
const QUIET: Partial<Profile> = {
  diskSize: 8 * MIB,
  connections: 2,
  depth: 2,
  thinkMs: 20,
  flushShare: 0.05,
  fuaShare: 0,
  zeroShare: 0.05,
  trimShare: 0.05,
  readShare: 0.02,
  writeSizeMax: 16 * KIB,
  hot: [1, 3, 5, 7].map((at) => ({ offset: at * MIB + 10 * KIB, length: 128 * KIB })),
  windowSize: MIB,
  spoolSize: 0,
  regionSize: MIB,
  dirtyActive: 16,
  stagingLimit: undefined,
  stagingOverflow: 'keep',
  mode: 'async',
  initialSize: 64 * KIB,
  latencyMs: 0.5,
  rate: 20_000,
  diskAtOnce: 0.5,
  diskCallMs: 0.3,
  diskSyncMs: 2,
  intervals: new Map(),
  pointCrashes: 0,
  rekeyIntervalMs: 3_600_000,
  verifyEveryMs: undefined,
};
/** Bytes per ms of a link on which things take time. */
const SLOW_RATE = 100;

function simulate(profile: Partial<Profile> = {}): Simulation {
  return new Simulation({ seed: 4711, steps: STEPS, profile: { ...QUIET, ...profile } });
}

function count(simulation: Simulation, name: PointName): number {
  return simulation.points.get(name) ?? 0;
}

const isStreaming = (simulation: Simulation) => (): boolean => simulation.primary.link?.state === 'streaming';

/** The image is the primary's content at that position of that run, to the last byte. */
function expectImageAt(simulation: Simulation, run: string, sequence: number): void {
  const { status, host } = simulation.mirror;
  expect(status).toMatchObject({ consistent: true, exact: true, run, applied: sequence });
  const wanted = simulation.history.get(run)?.contentAt(sequence);
  expect(wanted).toBeDefined();
  expect(host.medium.file(IMAGE_PATH)?.cache.differences(wanted!, 1)).toEqual([]);
}

/** The link is away until order has been given up; then it is back, and slow. Returns where the image stands. */
async function fallBehind(
  simulation: Simulation,
  until: (what: string, done: () => boolean) => Promise<void>,
): Promise<{ run: string; sequence: number }> {
  const { network, primary, mirror } = simulation;
  await until('streaming', isStreaming(simulation));
  const before = count(simulation, 'primary-order-given-up');
  network.cut('mirror', true);
  await until('order is given up', () => count(simulation, 'primary-order-given-up') > before);
  const sinceMs = simulation.timeline.nowMs;
  await until('much differs', () => simulation.timeline.nowMs > sinceMs + 3_000);
  await until('the mirror has noticed', () => mirror.status?.primary === undefined);
  network.pace.rate = SLOW_RATE;
  primary.clients!.thinkFactor = 20;
  const { run, applied: sequence } = mirror.status!;
  network.cut('mirror', false);
  return { run, sequence };
}

describe('rescan', () => {
  it('link lost halfway: image is still the last position', async () => {
    const simulation = simulate();
    const { network, mirror } = simulation;
    const outcome = await simulation.play(async (until) => {
      const { run, sequence } = await fallBehind(simulation, until);
      await until('half of it is staged', () => (mirror.status?.staging?.size ?? 0) > 200 * KIB);
      network.resetAll();
      network.cut('mirror', true);
      await until('the mirror has noticed', () => mirror.status?.primary === undefined);
      expectImageAt(simulation, run, sequence);
      expect(count(simulation, 'mirror-commit-recorded')).toBe(0);
      expect(simulation.history.latest!.sequence).toBeGreaterThan(sequence);
      network.cut('mirror', false);
    });
    expect(outcome.states).toContain('rescan');
    expect(outcome.points.get('mirror-commit-recorded')).toBeGreaterThan(0);
  });

  it('link lost halfway: goes on with what is staged', async () => {
    const simulation = simulate();
    const { network, mirror } = simulation;
    await simulation.play(async (until) => {
      await fallBehind(simulation, until);
      await until('half of it is staged', () => (mirror.status?.staging?.size ?? 0) > 200 * KIB);
      const connections = network.connectionCount;
      network.resetAll();
      await until('the run is committed', () => count(simulation, 'mirror-commit-recorded') > 0);
      expect(network.connectionCount).toBeGreaterThan(connections);
      expect(count(simulation, 'mirror-staging-begun')).toBe(1);
    });
  });
});

describe('staged run', () => {
  it('the mirror dies between commit record and copy: the next start finishes it', async () => {
    const simulation = simulate();
    const { network, mirror, primary } = simulation;
    await simulation.play(async (until) => {
      const { run, sequence } = await fallBehind(simulation, until);
      simulation.onPoint = (name) => (name === 'mirror-commit-recorded' ? 'power' : undefined);
      await until('the mirror has died', () => mirror.state === 'down');
      simulation.onPoint = undefined;
      expect(count(simulation, 'mirror-commit-recorded')).toBe(1);
      expect(count(simulation, 'mirror-copy-begun')).toBe(0);
      // Alone: without anything from the primary.
      network.cut('mirror', true);
      await until('it is copied', () => mirror.state === 'up' && count(simulation, 'mirror-staging-removed') > 0);
      expect(count(simulation, 'mirror-copy-begun')).toBe(1);
      const { applied } = mirror.status!;
      expect(applied).toBeGreaterThan(sequence);
      expectImageAt(simulation, run, applied);
      network.cut('mirror', false);
      await until('streaming', () => primary.link?.state === 'streaming');
    });
  });

  it('after a power loss of the mirror: what may be in the image already comes as one, in order', async () => {
    const simulation = simulate({ spoolSize: 64 * MIB });
    const { mirror, primary } = simulation;
    const outcome = await simulation.play(async (until) => {
      await until('streaming', isStreaming(simulation));
      await until('something is not recorded', () => {
        const { status } = mirror;
        return status !== undefined && status.applied > status.recorded + 2;
      });
      // So little that the window takes it.
      primary.clients!.thinkFactor = 500;
      mirror.crash('power');
      simulation.states.clear();
      const before = count(simulation, 'primary-order-given-up');
      await until('it is committed', () => count(simulation, 'mirror-copy-recorded') > 0);
      await until('streaming', isStreaming(simulation));
      expect(count(simulation, 'mirror-commit-recorded')).toBe(1);
      expect(count(simulation, 'primary-order-given-up')).toBe(before);
    });
    expect(outcome.states).not.toContain('rescan');
  });
});

describe('merged part', () => {
  it('link lost in its middle: goes on at its checkpoint', async () => {
    const simulation = simulate({ spoolSize: 4 * MIB, thinkMs: 10 });
    const { network, primary, mirror } = simulation;
    const outcome = await simulation.play(async (until) => {
      await until('streaming', isStreaming(simulation));
      network.cut('mirror', true);
      await until('parts are merged', () => count(simulation, 'primary-merge-begun') > 0);
      primary.clients!.thinkFactor = 20;
      network.pace.rate = SLOW_RATE;
      network.cut('mirror', false);
      await until('a part is on its way', () => count(simulation, 'mirror-staging-begun') > 0);
      const begunMs = simulation.timeline.nowMs;
      // Checkpoints come every two seconds.
      await until('some of it is held', () => simulation.timeline.nowMs > begunMs + 4_500);
      expect(mirror.status?.staging?.size).toBeGreaterThan(0);
      const connections = network.connectionCount;
      network.resetAll();
      await until('the part has arrived', () => count(simulation, 'primary-merge-sent') > 0);
      expect(network.connectionCount).toBeGreaterThan(connections);
      expect(count(simulation, 'mirror-staging-begun')).toBe(1);
    });
    // That was the first seeding.
    expect(outcome.points.get('primary-order-given-up')).toBe(1);
  });
});

describe('primary', () => {
  it('loses power with writes that only the mirror has: they are taken back, and nothing differs unmarked', async () => {
    const simulation = simulate({ flushShare: 0, dirtyActive: 1 });
    const { primary, mirror } = simulation;
    let ahead = 0;
    await simulation.play(async (until) => {
      for (let attempt = 0; attempt < 10 && ahead === 0; attempt += 1) {
        await until('streaming', () => primary.state === 'up' && isStreaming(simulation)());
        const { clients } = primary;
        clients!.thinkFactor = 200;
        await until('the mirror has all', () => {
          const { link } = primary;
          const last = simulation.history.latest!.sequence;
          return link?.state === 'streaming' && link.applied === last && last > 0;
        });
        const { applied } = mirror.status!;
        primary.crash('power');
        const image = mirror.host.medium.file(IMAGE_PATH)!.cache;
        if (mirror.status?.applied === applied) ahead = image.differences(primary.content).length;
      }
      expect(ahead).toBeGreaterThan(0);
    });
    expect(simulation.oracle.checks.differing).toBeGreaterThan(0);
    const image = mirror.host.medium.file(IMAGE_PATH)!.cache;
    expect(image.differences(primary.content)).toEqual([]);
  });
});

describe('spool', () => {
  it('clean stop and start: goes on in order', async () => {
    const simulation = simulate({ spoolSize: 64 * MIB, thinkMs: 10 });
    const { network, primary } = simulation;
    const outcome = await simulation.play(async (until) => {
      await until('streaming', isStreaming(simulation));
      network.cut('mirror', true);
      await until('something is spooled', () => (primary.link?.spool.used ?? 0) > MIB);
      const run = primary.primary!.status().run;
      const readBefore = count(simulation, 'primary-spool-read');
      primary.stop(0);
      await until('it has stopped and is back', () => primary.state === 'up' && primary.primary!.status().run !== run);
      expect(count(simulation, 'primary-backlog-persisted')).toBe(1);
      expect(primary.link?.spool.used).toBeGreaterThan(MIB / 2);
      network.cut('mirror', false);
      await until('streaming', isStreaming(simulation));
      expect(count(simulation, 'primary-spool-read')).toBeGreaterThan(readBefore);
    });
    // That was the first seeding.
    expect(outcome.points.get('primary-order-given-up')).toBe(1);
    expect(outcome.points.get('mirror-staging-begun')).toBeUndefined();
    expect(outcome.states).not.toContain('rescan');
  });
});

describe('periodic verification', () => {
  it('a bit that flips in the image is found and repaired, while clients write and keys are renewed', async () => {
    const simulation = simulate({ verifyEveryMs: 3_000, rekeyIntervalMs: 1_500 });
    const { primary, mirror } = simulation;
    const offset = 2 * MIB + 5 * KIB + 7;
    const outcome = await simulation.play(async (until) => {
      await until('streaming', isStreaming(simulation));
      await until('a cycle has found nothing', () => primary.link?.verification?.last?.comparedSize === 8 * MIB);
      expect(primary.link!.verification!.last).toMatchObject({ differingSize: 0, ranges: [] });
      simulation.damaged = true;
      primary.expectsDifferences = true;
      const image = mirror.host.medium.file(IMAGE_PATH)!;
      const data = Buffer.from([image.cache.slice(offset, 1)[0]! ^ 0x10]);
      image.change({ kind: 'write', offset, data }, simulation.timeline.wallNs);
      expect(image.cache.differences(primary.content).length).toBeGreaterThan(0);
      await until('it is found', () => (primary.link?.verification?.last?.differingSize ?? 0) > 0);
      expect(primary.link!.verification!.last).toMatchObject({
        differingSize: 4 * KIB,
        repairedSize: 4 * KIB,
        ranges: [{ offset: 2 * MIB + 4 * KIB, length: 4 * KIB }],
      });
      simulation.damaged = false;
      primary.expectsDifferences = false;
      await until('the next cycle finds nothing', () => primary.link?.verification?.last?.differingSize === 0);
    });
    expect(outcome.states).not.toContain('rescan');
  });
});

describe('full staging', () => {
  it('old but consistent, and not tried again below what it needs', async () => {
    const simulation = simulate({ stagingLimit: 64 * KIB });
    const { network, primary, mirror } = simulation;
    await simulation.play(async (until) => {
      const { run, sequence } = await fallBehind(simulation, until);
      await until('the mirror has no room', () => (primary.link?.staging.needed ?? 0) > 0);
      const problem = primary.link?.problem?.code;
      expect(problem).toBe('staging-full');
      expect(primary.link!.staging.needed).toBeGreaterThan(64 * KIB);
      await until('the mirror has let go', () => mirror.status?.primary === undefined);
      expectImageAt(simulation, run, sequence);
      const begun = count(simulation, 'mirror-staging-begun');
      const sinceMs = simulation.timeline.nowMs;
      await until('a long time', () => simulation.timeline.nowMs > sinceMs + 20_000);
      expect(count(simulation, 'mirror-staging-begun')).toBe(begun);
      expect(primary.link!.staging.needed).toBeGreaterThan(64 * KIB);
      expectImageAt(simulation, run, sequence);
      network.pace.rate = QUIET.rate!;
    });
    // A human gave it room.
    expect(count(simulation, 'mirror-commit-recorded')).toBeGreaterThan(0);
  });
});
