/**
 * A primary and a mirror whose disk has a recorded history, so that the mirror's image can be judged at any instant.
 *
 * A *life* is the history from one start of the primary to the next: it begins with what its disk holds then. The mirror
 * may be within an earlier life until it has been brought to the present one, in one step.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { expect } from 'vitest';
import type { Chance } from '../support/chance.ts';
import { type Daemon, runNbdtwin, until } from '../support/daemon.ts';
import { History } from '../support/history.ts';
import { type Judgement, judgeCrashState, judgePrefix, type PrefixOptions } from '../support/judge.ts';
import { RecordedLoad, type RecordedLoadOptions } from '../support/recorded-load.ts';
import { Recorder } from '../support/recorder.ts';
import { runProgram } from '../support/run-program.ts';
import type { Rig } from './rig.ts';

/** Of what is written and when something breaks; processes take their own course beside it. */
export const SEED = Number(process.env['NBDTWIN_CRASH_SEED'] ?? Date.now() % 1_000_000);

const CONNECTIONS = 3;
const LOAD: RecordedLoadOptions = { depth: 16, pauseMs: 10 };

export class Witness {
  readonly rig: Rig;
  readonly chance: Chance;
  /** The earlier lives in which the mirror may still be, then the present one. */
  #lives: readonly [...History[], History];
  #recorder: Recorder | undefined;
  #load: RecordedLoad | undefined;
  #copies = 0;

  private constructor(rig: Rig, chance: Chance, history: History) {
    this.rig = rig;
    this.chance = chance;
    this.#lives = [history];
  }

  /** Of a primary that runs, is in step with its mirror, and that nobody has written to since. */
  static async of(rig: Rig, chance: Chance): Promise<Witness> {
    return new Witness(rig, chance, new History(await readFile(rig.twin.disk)));
  }

  /** The present life. */
  get history(): History {
    return this.#lives.at(-1)!;
  }

  /** For clients that are not ours: to be served. The server must run. */
  async record(): Promise<Recorder> {
    this.#recorder = await Recorder.connect(this.rig.twin.socket, this.history, CONNECTIONS);
    return this.#recorder;
  }

  /** A load of ours begins. The server must run. */
  async startLoad(options: Partial<RecordedLoadOptions> = {}): Promise<void> {
    this.#load = new RecordedLoad(await this.record(), this.chance, { ...LOAD, ...options });
  }

  get isUnderLoad(): boolean {
    return this.#load !== undefined;
  }

  /** Ends the load and the connections, of which the server may have gone. */
  async stopLoad(): Promise<void> {
    await this.#load?.stop();
    await this.#recorder?.close();
    this.#load = undefined;
    this.#recorder = undefined;
  }

  /** Waits until so many more operations have been answered; rejects when the load has ended before. */
  async untilAnswered(count: number): Promise<void> {
    const { history } = this;
    const goal = history.clock + 2 * count;
    await until(() => history.clock >= goal || this.#load?.hasEnded === true, `${count} operations are answered`);
    if (history.clock < goal) throw new Error(`the load ended before ${count} operations were answered`);
  }

  /**
   * The primary has died, or was stopped, and does not run: its disk must be something that the history allows, and
   * another life begins with it.
   */
  async newLife(judge: (history: History, disk: Buffer) => Judgement): Promise<void> {
    const disk = await readFile(this.rig.twin.disk);
    expectLegal(judge(this.history, disk), 'the disk');
    this.#lives = [...this.#lives, new History(disk)];
  }

  /** Both are in step, and no load runs: the images are the same, what the history says, and the mirror is of this life. */
  async expectSettled(): Promise<void> {
    await this.rig.expectIdentical();
    const { history } = this;
    expectLegal(judgePrefix(history, await readFile(this.rig.twin.image), { since: history.clock }), 'the image');
    this.#lives = [new History(await readFile(this.rig.twin.disk))];
  }

  /**
   * The mirror's image as it is at this instant, which a copy is made of: what `nbdtwin recover` makes of that must be a
   * prefix of a life; with `since`, of the present one. The mirror must not run, or be frozen.
   */
  async expectPrefix(options: PrefixOptions = {}): Promise<void> {
    const image = await this.#recovered();
    this.#expectAny(options.since, (history) => judgePrefix(history, image, options));
  }

  /** The same after a loss of power of the mirror: a crash state. */
  async expectCrashState(since?: number): Promise<void> {
    const image = await this.#recovered();
    this.#expectAny(since, (history) => judgeCrashState(history, image, since));
  }

  /** Path of a copy of the mirror's image and its state; the mirror must not run, or be frozen. */
  async copyMirror(): Promise<string> {
    this.#copies += 1;
    const { twin } = this.rig;
    const folder = join(twin.folder, `copy-${this.#copies}`);
    await runProgram('mkdir', [folder]);
    await runProgram('cp', ['-a', '--sparse=always', twin.image, `${twin.image}.twin`, folder]);
    return join(folder, basename(twin.image));
  }

  async #recovered(): Promise<Buffer> {
    const copy = await this.copyMirror();
    await recover(copy);
    const image = await readFile(copy);
    await runProgram('rm', ['-r', join(copy, '..')]);
    return image;
  }

  #expectAny(since: number | undefined, judge: (history: History) => Judgement): void {
    const judgements = (since === undefined ? this.#lives : [this.history]).map(judge);
    if (judgements.some(({ legal }) => legal)) return;
    const problems = judgements.map((judgement) => (judgement.legal ? '' : judgement.problem));
    expect.fail(`the mirror's image: ${problems.join('\n')}`);
  }
}

/** Runs `nbdtwin recover` on a copy, which must succeed, and see that it is one. */
export async function recover(image: string): Promise<void> {
  const result = await runNbdtwin(['recover', image]);
  expect(result, result.stdout + result.stderr).toMatchObject({ status: 0 });
  expect(result.stdout).toContain('another file than the one that the mirror wrote');
}

function expectLegal(judgement: Judgement, what: string): void {
  if (!judgement.legal) expect.fail(`${what}: ${judgement.problem}`);
}

/** Stops a process in the middle of whatever it does, until `thaw`; every thread of it stands still on return. */
export async function freeze(daemon: Daemon): Promise<void> {
  daemon.kill('SIGSTOP');
  await until(() => isStill(daemon.pid), 'the process stands still');
}

export function thaw(daemon: Daemon): void {
  daemon.kill('SIGCONT');
}

/** Every thread of it, those of the pool included. */
function isStill(pid: number): boolean {
  const tasks = `/proc/${pid}/task`;
  return readdirSync(tasks).every((task) => /^State:\s+T/m.test(readFileSync(join(tasks, task, 'status'), 'utf8')));
}
