/**
 * A host of the simulation: a medium, and at most one living process, its *incarnation*.
 *
 * An incarnation dies by a kill (the page cache stays, what it had asked of the disk may still happen or not, its sockets
 * are closed by the kernel) or with the power (see Medium.powerLost; its peers hear nothing). After that no event of it
 * happens, and no call that it had made ever returns. A call that code of a dead incarnation still makes (it can only be
 * the rest of the event in which it died) returns nothing, or a promise that never settles, and has no effect.
 */
import type { Points } from '../../src/io/points.ts';
import type { World } from '../../src/io/world.ts';
import { inlineScanPool } from '../support/inline-scan-pool.ts';
import { SimulatedFiles } from './files.ts';
import { Medium } from './medium.ts';
import type { HostNetwork, SimulatedNetwork } from './network.ts';
import type { SeededRandom } from './random.ts';
import type { Fate } from './stored-file.ts';
import { clockOf, type Owner, type Timeline } from './timeline.ts';

/** How the disks of a host behave in time. */
export interface DiskPace {
  /** Odds that a read or write finishes at once. */
  atOnce: number;
  /** Mean of what the others take. */
  callMs: number;
  /** Mean of a sync. */
  syncMs: number;
}

export interface Mutation {
  /** Takes effect, or a part of it does: in [0, 1]. */
  take(share: number): void;
}

export class Incarnation implements Owner {
  readonly host: Host;
  readonly number: number;
  readonly random: SeededRandom;
  /** Mutations asked of the disk that have not taken effect. */
  readonly pending = new Set<Mutation>();
  alive = true;

  constructor(host: Host, number: number, random: SeededRandom) {
    this.host = host;
    this.number = number;
    this.random = random;
  }
}

export class Host {
  readonly name: string;
  readonly timeline: Timeline;
  readonly random: SeededRandom;
  readonly medium: Medium;
  readonly network: HostNetwork;
  readonly pace: DiskPace = { atOnce: 0.7, callMs: 0.3, syncMs: 2 };
  incarnation: Incarnation | undefined;
  #count = 0;

  constructor(name: string, timeline: Timeline, random: SeededRandom, network: SimulatedNetwork, medium?: Medium) {
    this.name = name;
    this.timeline = timeline;
    this.random = random;
    this.medium = medium ?? new Medium(name, random.fork());
    this.network = network.host(name);
  }

  /** A process starts: the world as it sees it. */
  boot(points: Points['reached']): { incarnation: Incarnation; world: World } {
    this.#count += 1;
    const incarnation = new Incarnation(this, this.#count, this.random.fork());
    this.incarnation = incarnation;
    const worldRandom = this.random.fork();
    const world: World = {
      clock: clockOf(this.timeline, incarnation),
      random: worldRandom,
      files: new SimulatedFiles(this.medium, incarnation, this.timeline, this.pace),
      network: this.network.open(incarnation),
      scan: inlineScanPool(),
      points: {
        reached(name) {
          if (incarnation.alive) points(name);
        },
      },
    };
    return { incarnation, world };
  }

  /** The process ends by itself, with nothing open. */
  exited(): void {
    if (this.incarnation !== undefined) this.kill();
  }

  kill(): void {
    const dead = this.#die();
    for (const mutation of dead?.pending ?? []) {
      const luck = this.random.uniform();
      if (luck < 0.4) mutation.take(1);
      else if (luck < 0.6) mutation.take(this.random.uniform());
    }
    this.medium.unlockAll();
    this.network.processDied('killed');
  }

  powerOff(fate: Fate): void {
    this.#die();
    this.medium.powerLost(fate);
    this.network.processDied('powered off');
  }

  #die(): Incarnation | undefined {
    const dead = this.incarnation;
    if (dead !== undefined) dead.alive = false;
    this.incarnation = undefined;
    return dead;
  }
}
