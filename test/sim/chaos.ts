/** Misfortunes: what happens to the two hosts and the network between them, and when it is over. */
import { unreachable } from '../../src/base/assert.ts';
import type { FailureCode } from '../../src/base/failure.ts';
import { KIB } from '../../src/base/units.ts';
import type { Host } from './host.ts';
import type { Call, Medium } from './medium.ts';
import type { MirrorSide } from './mirror-side.ts';
import type { PrimarySide } from './primary-side.ts';
import type { Misfortune } from './profile.ts';
import { pickFate, type Shared } from './shared.ts';

/** Means, ms. */
const DOWN_MS = 300;
const TROUBLE_MS = 1_500;
/** Now and then something lasts so long that everybody's patience ends. */
const LONG_TROUBLE_MS = 30_000;
/** Faults of one host that wait for their moment. */
const FAULTS_MAX = 2;

export class Chaos {
  readonly counts = new Map<Misfortune, number>();
  readonly #shared: Shared;
  readonly #primary: PrimarySide;
  readonly #mirror: MirrorSide;
  /** What is to be done so that all is well again. */
  readonly #remedies = new Set<() => void>();
  #ended = false;
  #mirrorCopy: Medium | undefined;
  #primaryCopy: Medium | undefined;
  /** How much slower than usual the primary's disk has been at worst. */
  slowest = 1;

  constructor(shared: Shared, primary: PrimarySide, mirror: MirrorSide) {
    this.#shared = shared;
    this.#primary = primary;
    this.#mirror = mirror;
  }

  begin(): void {
    for (const [misfortune, intervalMs] of this.#shared.profile.intervals) this.#expect(misfortune, intervalMs);
  }

  /** From now on nothing happens any more, and what has happened is over. */
  end(): void {
    this.#ended = true;
    for (const remedy of this.#remedies) remedy();
    this.#remedies.clear();
    this.#primary.host.medium.faults = [];
    this.#mirror.host.medium.faults = [];
  }

  /** A side that went down comes back after a while. */
  wentDown(side: PrimarySide | MirrorSide): void {
    this.#shared.timeline.after(this.#shared.random.exponential(DOWN_MS), () => side.start());
  }

  #expect(misfortune: Misfortune, intervalMs: number): void {
    this.#shared.timeline.after(this.#shared.random.exponential(intervalMs), () => {
      if (this.#ended) return;
      this.#happen(misfortune);
      this.#expect(misfortune, intervalMs);
    });
  }

  #happen(misfortune: Misfortune): void {
    const { random, network, profile } = this.#shared;
    const primary = this.#primary;
    const mirror = this.#mirror;
    this.counts.set(misfortune, (this.counts.get(misfortune) ?? 0) + 1);
    switch (misfortune) {
      case 'primary-killed':
        primary.crash('kill');
        break;
      case 'primary-power':
        primary.crash('power');
        break;
      case 'primary-stopped':
        primary.stop(random.pick([0, 50, 3_000]));
        break;
      case 'mirror-killed':
        mirror.crash('kill');
        break;
      case 'mirror-power':
        mirror.crash('power');
        break;
      case 'mirror-stopped':
        mirror.stop();
        break;
      case 'both-power':
        primary.crash('power');
        mirror.crash('power');
        break;
      case 'link-reset':
        this.#shared.trace('link: reset');
        network.resetAll();
        break;
      case 'link-silent': {
        const side = random.pick(['primary', 'mirror']);
        this.#shared.trace(`link: silent at the ${side}`);
        network.loseSilently(side);
        break;
      }
      case 'partition': {
        const sides = random.pick([['primary'], ['mirror'], ['primary', 'mirror']]);
        this.#trouble(
          `partition of ${sides.join(' and ')}`,
          () => {
            for (const side of sides) network.cut(side, true);
          },
          () => {
            for (const side of sides) network.cut(side, false);
          },
        );
        break;
      }
      case 'slow-link':
        this.#trouble(
          'slow link',
          () => {
            network.pace.rate = profile.rate / 50;
            network.pace.latencyMs = profile.latencyMs * 10;
          },
          () => {
            network.pace.rate = profile.rate;
            network.pace.latencyMs = profile.latencyMs;
          },
        );
        break;
      case 'slow-mirror-disk':
        this.#slowDisk(mirror.host, 'mirror');
        break;
      case 'slow-primary-disk':
        this.#slowDisk(primary.host, 'primary');
        break;
      case 'mirror-disk-fault':
        mirror.faulty = true;
        this.#fault(mirror.host.medium);
        break;
      case 'primary-disk-fault':
        primary.faulty = true;
        this.#fault(primary.host.medium);
        break;
      case 'mirror-full':
        mirror.faulty = true;
        this.#trouble(
          'mirror full',
          () => {
            mirror.host.medium.capacity = mirror.host.medium.usedSize + random.below(256 * KIB);
          },
          () => {
            mirror.host.medium.capacity = Number.POSITIVE_INFINITY;
          },
        );
        break;
      case 'mirror-restored':
        this.#mirrorCopy = this.#restore(mirror, this.#mirrorCopy);
        break;
      case 'primary-restored':
        this.#primaryCopy = this.#restore(primary, this.#primaryCopy);
        break;
      case 'client-burst':
        this.#clients('burst', 0.05);
        break;
      case 'client-pause':
        this.#clients('pause', 50);
        break;
      default:
        unreachable(misfortune);
    }
  }

  #trouble(name: string, begin: () => void, end: () => void): void {
    const { timeline, random } = this.#shared;
    const lengthMs = random.exponential(random.chance(0.1) ? LONG_TROUBLE_MS : TROUBLE_MS);
    this.#shared.trace(`${name} for ${lengthMs.toFixed(0)} ms`);
    begin();
    const remedy = (): void => {
      if (!this.#remedies.delete(remedy)) return;
      this.#shared.trace(`${name} is over`);
      end();
    };
    this.#remedies.add(remedy);
    timeline.after(lengthMs, remedy);
  }

  #slowDisk(host: Host, name: string): void {
    const { profile } = this.#shared;
    const factor = this.#shared.random.pick([5, 30]);
    if (name === 'primary') this.slowest = Math.max(this.slowest, factor);
    this.#trouble(
      `slow disk of the ${name}`,
      () => {
        host.pace.atOnce = 0;
        host.pace.callMs = profile.diskCallMs * factor;
        host.pace.syncMs = profile.diskSyncMs * factor;
      },
      () => {
        host.pace.atOnce = profile.diskAtOnce;
        host.pace.callMs = profile.diskCallMs;
        host.pace.syncMs = profile.diskSyncMs;
      },
    );
  }

  #fault(medium: Medium): void {
    const { random } = this.#shared;
    // A disk that fails all the time only keeps everything down.
    if (medium.faults.length >= FAULTS_MAX) return;
    const calls: readonly Call[] = [
      'write',
      'zero',
      'punch',
      'sync',
      'sync',
      'replace',
      'name',
      'resize',
      'reserve',
      'open',
    ];
    const onMirror: readonly Call[] = [...calls, 'read'];
    const call = random.pick(medium.name === 'mirror' ? onMirror : calls);
    const code: FailureCode = (call === 'write' || call === 'reserve') && random.chance(0.5) ? 'no-space' : 'io-error';
    const fault = {
      call,
      path: '',
      code,
      after: random.below(30),
      times: random.chance(0.7) ? 1 : 1 + random.below(20),
    };
    this.#shared.trace(`fault on the ${medium.name}: ${call} ${code}, ${fault.times} after ${fault.after}`);
    medium.faults.push(fault);
  }

  /** Takes a copy of the side's disks, or, when there is one, puts them back to it. */
  #restore(side: PrimarySide | MirrorSide, copy: Medium | undefined): Medium | undefined {
    const { medium } = side.host;
    if (copy === undefined) {
      this.#shared.trace(`the disks of the ${medium.name} are copied`);
      const taken = medium.clone(this.#shared.random.fork());
      taken.powerLost(pickFate(this.#shared.random));
      return taken;
    }
    side.crash('power');
    this.#shared.trace(`the disks of the ${medium.name} are put back`);
    if (side === this.#mirror) {
      this.#mirror.restored();
      this.#primary.promises.void(this.#primary.sessionsUnderWay);
    }
    medium.restore(copy);
    return undefined;
  }

  #clients(name: string, factor: number): void {
    const { clients } = this.#primary;
    if (clients === undefined) return;
    this.#trouble(
      `clients: ${name}`,
      () => {
        clients.thinkFactor = factor;
      },
      () => {
        clients.thinkFactor = 1;
      },
    );
  }
}
