import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { assert } from '../../../src/base/assert.ts';
import { Failure, isFailure } from '../../../src/base/failure.ts';
import { DirtyMap } from '../../../src/store/dirty-map.ts';
import { PAGE_REGIONS } from '../../../src/store/dirty-page.ts';
import { TOLD_PATH, ToldFile } from './told-file.ts';

const REGION_SIZE = 512;
const REGION_COUNT = 2 * PAGE_REGIONS + 40;
const SIZE = REGION_COUNT * REGION_SIZE;
const PLANES = 2;
/** On three pages, at their edges. */
const REGIONS = [0, 1, 2, 7, PAGE_REGIONS - 1, PAGE_REGIONS, PAGE_REGIONS + 5, 2 * PAGE_REGIONS, REGION_COUNT - 1];
const RUN = Buffer.alloc(16, 9);
const REPLICAS = [Buffer.alloc(16, 1), Buffer.alloc(16, 2)];

type Step =
  | { readonly kind: 'set'; readonly region: number; readonly count: number }
  | { readonly kind: 'clear'; readonly plane: number; readonly choice: number }
  | { readonly kind: 'tell'; readonly fails: boolean }
  | { readonly kind: 'drain' | 'kill' | 'power cut' };

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('set'),
      region: fc.constantFrom(...REGIONS),
      count: fc.integer({ min: 1, max: 3 }),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({ kind: fc.constant('clear'), plane: fc.nat(PLANES - 1), choice: fc.nat(2 ** 9 - 1) }),
  },
  { weight: 10, arbitrary: fc.record({ kind: fc.constant('tell'), fails: fc.boolean() }) },
  { weight: 6, arbitrary: fc.constant({ kind: 'tell', fails: false }) },
  { weight: 2, arbitrary: fc.constant({ kind: 'drain' }) },
  { weight: 1, arbitrary: fc.constantFrom({ kind: 'kill' }, { kind: 'power cut' }) },
) as fc.Arbitrary<Step>;

/** What has been promised of the map, beside the map itself and its disk. */
class Scene {
  file: ToldFile;
  map!: DirtyMap;
  /** Regions whose `set` has completed with no `clear` asked for since, by plane. */
  readonly promised = Array.from({ length: PLANES }, () => new Set<number>());
  /** The position given to the last clear of each region, by plane. */
  readonly clearedAt = Array.from({ length: PLANES }, () => new Map<number, number>());
  versionSeen = 0;
  sequence = 0;
  /** What was found wrong where nobody waited for it. */
  #broken: unknown;
  readonly #random: () => number;
  readonly seen = { failedSets: 0, failedClears: 0, cuts: 0, lost: 0, setsAfterClear: 0 };

  constructor(seed: number) {
    this.file = new ToldFile(undefined);
    let state = seed >>> 0;
    this.#random = () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state / 2 ** 32;
    };
  }

  chance = (): boolean => this.#random() < 0.5;

  async open(file: ToldFile): Promise<DirtyMap> {
    file.isPrompt = true;
    const map = await DirtyMap.open(file.files, TOLD_PATH, {
      size: SIZE,
      regionSize: REGION_SIZE,
      planeCount: PLANES,
      trusted: true,
      // Nothing else can be made durable either: a mark that fails fails its write.
      invalidate: () => Promise.reject(new Failure('io-error', 'no state')),
    });
    file.isPrompt = false;
    return map;
  }

  /** Begins with the regions that the test plays with set, and no others. */
  async start(): Promise<void> {
    this.map = await this.open(this.file);
    this.file.isPrompt = true;
    for (const [plane, id] of REPLICAS.entries()) {
      await this.map.assignReplica(plane, id);
      const all = Array.from({ length: REGION_COUNT }, (_, region) => region);
      await this.map.clear(plane, all, { run: RUN, sequence: 0, checkpoint: 0 });
    }
    for (const region of REGIONS) this.set(region, 1);
    await settle();
    this.file.isPrompt = false;
  }

  set(region: number, count: number): void {
    const last = Math.min(region + count, REGION_COUNT) - 1;
    const { promised, map } = this;
    const completed = (): void => {
      if (map !== this.map) return;
      for (let at = region; at <= last; at += 1) {
        for (const [plane, regions] of promised.entries()) {
          assert(map.isSet(plane, at), 'a set that has completed has set its regions');
          if (this.clearedAt[plane]!.has(at)) this.seen.setsAfterClear += 1;
          regions.add(at);
        }
      }
    };
    const pending = map.set(region * REGION_SIZE + 100, (last - region) * REGION_SIZE + 1);
    if (pending === undefined) completed();
    else
      pending
        .then(completed, (error: unknown) => {
          assert(isFailure(error, 'io-error'), 'a set fails with the right code');
          this.seen.failedSets += 1;
        })
        .catch((error: unknown) => {
          this.#broken ??= error;
        });
  }

  clear(plane: number, choice: number): void {
    const regions = REGIONS.filter((region, index) => (choice >>> index) % 2 === 1 && this.map.isSet(plane, region));
    if (regions.length === 0) return;
    this.sequence += 1;
    for (const region of regions) {
      this.promised[plane]!.delete(region);
      this.clearedAt[plane]!.set(region, this.sequence);
    }
    this.map.clear(plane, regions, { run: RUN, sequence: this.sequence, checkpoint: 0 }).catch(() => {
      this.seen.failedClears += 1;
    });
    for (const region of regions) assert(!this.map.isSet(plane, region), 'a clear is in force at once');
  }

  tell(fails: boolean): void {
    if (this.file.calls.length === 0) return;
    this.file.tell(fails ? new Failure('io-error', 'injected') : undefined);
  }

  /** Opens what the medium would hold now, on a disk of its own. */
  async check(): Promise<ToldFile> {
    if (this.#broken !== undefined) throw this.#broken;
    this.versionSeen = Math.max(this.versionSeen, this.map.version);
    let lost = 0;
    const left = new ToldFile(
      this.file.cut(() => {
        const survives = this.chance();
        if (!survives) lost += 1;
        return survives;
      }),
    );
    this.seen.cuts += 1;
    if (lost > 0) this.seen.lost += 1;
    const map = await this.open(left);
    assert(map.found === 'kept', 'every page is whole');
    assert(map.versionFound >= this.versionSeen, 'a version that was durable stays');
    for (let plane = 0; plane < PLANES; plane += 1) {
      for (const region of this.promised[plane]!)
        assert(map.isSet(plane, region), `region ${region} of plane ${plane} is set`);
      for (const [region, at] of this.clearedAt[plane]!) {
        const position = map.cleared(plane)?.sequence ?? -1;
        assert(map.isSet(plane, region) || position >= at, 'what is clear was cleared at a known position');
      }
    }
    return left;
  }

  /** The process ends and another one opens the map. */
  async restart(file: ToldFile): Promise<void> {
    this.file.kill(this.chance);
    this.file = file;
    this.map = await this.open(file);
  }
}

/** Lets every promise that can go on do so. */
async function settle(): Promise<void> {
  await new Promise<void>((resolve) => setImmediate(resolve));
}

describe('the dirty map on a disk whose power may be cut at any instant', () => {
  it('never misses a region whose set has completed and that nobody has cleared since', async () => {
    const seen = { failedSets: 0, failedClears: 0, cuts: 0, lost: 0, setsAfterClear: 0 };
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 60, size: 'max' }), fc.nat(), async (steps, seed) => {
        const scene = new Scene(seed);
        await scene.start();
        for (const taken of steps) {
          if (taken.kind === 'set') scene.set(taken.region, taken.count);
          else if (taken.kind === 'clear') scene.clear(taken.plane, taken.choice);
          else if (taken.kind === 'tell') scene.tell(taken.fails && seed % 2 === 0);
          else if (taken.kind === 'drain') {
            for (let turn = 0; turn < 12; turn += 1) {
              scene.tell(false);
              await settle();
            }
          } else if (taken.kind === 'kill') await scene.restart(scene.file);
          else await scene.restart(await scene.check());
          await settle();
          await scene.check();
        }
        for (const key of Object.keys(seen) as (keyof typeof seen)[]) seen[key] += scene.seen[key];
      }),
      { numRuns: 120 },
    );
    // Each of the things that are hard has happened, many times.
    expect(seen.failedSets).toBeGreaterThan(20);
    expect(seen.failedClears).toBeGreaterThan(20);
    expect(seen.setsAfterClear).toBeGreaterThan(50);
    expect(seen.lost).toBeGreaterThan(200);
  }, 120_000);
});
