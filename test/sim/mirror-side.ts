/** The mirror's host in the simulation: starts the real mirror on its world and ends it in every way there is. */
import { isFailure } from '../../src/base/failure.ts';
import type { StagingRules } from '../../src/mirror/image-state.ts';
import type { Mirror } from '../../src/mirror/mirror.ts';
import { openMirror } from '../../src/mirror/open-mirror.ts';
import type { MirrorExportStatus } from '../../src/mirror/status.ts';
import { Host, type Incarnation } from './host.ts';
import type { Medium } from './medium.ts';
import { EXPORT_NAME, type SideState } from './primary-side.ts';
import { logOf, MIRROR_ADDRESS, pickFate, type Shared, TIMING, TLS } from './shared.ts';

export const MIRROR_DIRECTORY = '/mirrors';
export const IMAGE_PATH = `${MIRROR_DIRECTORY}/${EXPORT_NAME}.img`;

export class MirrorSide {
  readonly host: Host;
  state: SideState = 'down';
  /** What the operator allows; with the next start. */
  staging: StagingRules;
  mirror: Mirror | undefined;
  /** The disk has had failures. */
  faulty = false;
  /** How often the disks were put back to a copy. */
  restorations = 0;
  readonly #shared: Shared;
  #stagingNow: StagingRules | undefined;
  #appliedMax = Number.POSITIVE_INFINITY;
  readonly #crashed: (medium: Medium, how: string, appliedMax: number) => void;

  /** `crashed` gets what a crash has left. */
  constructor(shared: Shared, crashed: (medium: Medium, how: string, appliedMax: number) => void) {
    this.#shared = shared;
    this.#crashed = crashed;
    this.staging = { limit: shared.profile.stagingLimit, overflow: shared.profile.stagingOverflow };
    this.host = new Host('mirror', shared.timeline, shared.random.fork(), shared.network);
    this.host.medium.put(MIRROR_DIRECTORY, 'directory');
    this.host.medium.syncDirectory('/');
  }

  /** What the mirror says of the export now. */
  get status(): MirrorExportStatus | undefined {
    return this.mirror?.status().exports[0];
  }

  /**
   * Operations beyond this one cannot have reached the image: those after the one that may be under way. An image that
   * is not exact is not touched, so what it may have got is known from before.
   */
  get appliedMax(): number {
    const status = this.status;
    if (status?.exact === true) this.#appliedMax = status.applied + 1;
    return this.faulty ? Number.POSITIVE_INFINITY : this.#appliedMax;
  }

  start(): void {
    if (this.state !== 'down') return;
    this.state = 'starting';
    const { incarnation, world } = this.host.boot((name) => this.#shared.reached('mirror', name));
    this.#shared.trace(`mirror ${incarnation.number} starts`);
    this.#open(incarnation, world).catch((error: unknown) => this.#shared.escaped(error, incarnation));
  }

  stop(): void {
    if (this.state !== 'up') return;
    this.state = 'stopping';
    const incarnation = this.host.incarnation!;
    this.#shared.trace('mirror stops');
    this.#close(incarnation).catch((error: unknown) => this.#shared.escaped(error, incarnation));
  }

  crash(how: 'kill' | 'power'): void {
    if (this.state === 'down') return;
    this.#shared.trace(`mirror: ${how}`);
    if (how === 'kill') this.host.kill();
    else this.host.powerOff(pickFate(this.host.random));
    const { appliedMax } = this;
    this.#down();
    this.#crashed(this.host.medium, how, appliedMax);
  }

  /** What a person does who has changed the rules: the mirror is started anew. */
  attend(): void {
    if (this.state === 'up' && this.#stagingNow !== this.staging) this.stop();
  }

  /** The disks are put back to a copy. */
  restored(): void {
    this.restorations += 1;
    this.#appliedMax = Number.POSITIVE_INFINITY;
  }

  async #open(incarnation: Incarnation, world: Parameters<typeof openMirror>[0]): Promise<void> {
    let mirror: Mirror;
    this.#stagingNow = this.staging;
    try {
      mirror = await openMirror(world, logOf(this.#shared, 'M'), {
        directory: MIRROR_DIRECTORY,
        listen: MIRROR_ADDRESS,
        tls: TLS,
        staging: this.staging,
        timing: TIMING,
      });
    } catch (error) {
      if (!incarnation.alive) return;
      if (!isFailure(error)) throw error;
      this.#shared.trace(`mirror does not start: ${error.code}: ${error.message}`);
      if (!this.faulty) this.#shared.wrong(`the mirror does not start: ${error.code}: ${error.message}`);
      this.host.exited();
      this.#down();
      return;
    }
    if (!incarnation.alive) return;
    this.mirror = mirror;
    this.state = 'up';
    this.#shared.trace('mirror is up');
  }

  async #close(incarnation: Incarnation): Promise<void> {
    try {
      await this.mirror?.close();
    } catch (error) {
      if (!incarnation.alive) return;
      if (!isFailure(error)) throw error;
      this.#shared.trace(`mirror stops badly: ${error.code}: ${error.message}`);
      if (!this.faulty) this.#shared.wrong(`the mirror does not stop: ${error.code}: ${error.message}`);
    }
    if (!incarnation.alive) return;
    this.#shared.trace('mirror has stopped');
    this.host.exited();
    this.#down();
    this.#crashed(this.host.medium, 'clean stop', Number.POSITIVE_INFINITY);
  }

  #down(): void {
    this.state = 'down';
    this.mirror = undefined;
    this.#shared.wentDown('mirror');
  }
}
