/**
 * The demonstration: what nbdtwin is for, on one machine, in half a minute.
 *
 * A primary and a mirror run as processes of their own, linked over TCP through a relay. A file system is written
 * through NBD; the link is cut while writes go on: once for so long that the window in memory holds what the mirror
 * missed, once so that the spool on disk does, once for longer than both; each time the mirror must be found in step
 * again. In the middle of the rescan its image must be what it was. At the end every bit of both images is compared.
 */
import process from 'node:process';
import { Failure, messageOf } from '../../base/failure.ts';
import { formatDuration, formatSize, GIB, MIB } from '../../base/units.ts';
import { systemClock } from '../../io/clock.ts';
import { nodeNetwork } from '../../io/node-network.ts';
import { findProgram, runToEnd } from '../../io/programs.ts';
import { systemRandom } from '../../io/random.ts';
import { connectNbd, type NbdClient } from '../../nbd/client.ts';
import type { Screen } from '../../observe/live-screen.ts';
import { firstDifference } from './compare.ts';
import { Display } from './display.ts';
import { type Act, actsTable, rescannedSince, rescanShare, totalsOf } from './ledger.ts';
import { lookAround } from './look-around.ts';
import { MARKER, makeMaterial } from './material.ts';
import { openStage, type Stage } from './stage.ts';
import { Watch } from './watch.ts';
import { copyImage, dataSize, scatter } from './writer.ts';

const DISK_SIZE = GIB;
const WINDOW_SIZE = 24 * MIB;
const SPOOL_SIZE = 96 * MIB;
/** The file system fills the first half; the second half is written at random, as a database would. */
const FILE_SYSTEM_SIZE = DISK_SIZE / 2;
const COPY_MS = 3000;
const SHORT_CUT = { size: 16 * MIB, durationMs: 2500 };
const LONGER_CUT = { size: 64 * MIB, durationMs: 3000 };
const LONG_CUT = { size: 176 * MIB, durationMs: 4500 };
/** Bytes that all of it may take on the temporary file system. */
const SPACE_NEEDED = 1280 * MIB;
const CATCH_UP_TIMEOUT_MS = 120_000;

/** process.stdout, say. */
interface DemoScreen extends Screen {
  on(event: 'error', listener: (error: Error) => void): unknown;
}

export interface DemoOptions {
  readonly screen: DemoScreen;
  /** Go on serving after the end, until a signal comes. */
  readonly keepServing: boolean;
}

/**
 * Runs it. Resolves when all was as it should be. Failures: `differences-found` when the images differ, `interrupted`
 * by a signal or because nobody reads the screen any more, `program-failed`, `not-ready`, `no-space`. No process and no folder is left behind in any case.
 */
export async function runDemo(options: DemoOptions): Promise<void> {
  const display = new Display(options.screen);
  const interruption = watchInterruptions(options.screen);
  let stage: Stage | undefined;
  let watch: Watch | undefined;
  let playing: Promise<void> = Promise.resolve();
  try {
    display.print(display.strong('nbdtwin: a disk that keeps a live copy of itself elsewhere'), '');
    display.begin('starting a primary and a mirror');
    stage = await openStage({ diskSize: DISK_SIZE, windowSize: WINDOW_SIZE, spoolSize: SPOOL_SIZE, marker: MARKER });
    watch = new Watch(stage, systemClock, display);
    const play = new Play(stage, watch, display);
    playing = play.run();
    await Promise.race([playing, interruption.asked, stage.failed]);
    if (options.keepServing && display.isLive) {
      display.print('', ...lookAround(stage, play.wroteFileSystem), '');
      await Promise.race([interruption.asked.catch(() => {}), stage.failed]);
    }
  } finally {
    display.begin('stopping the processes, removing the folder');
    display.freeze();
    await watch?.stop();
    await stage?.close(playing);
    display.clear();
    interruption.forget();
  }
}

/**
 * Rejects `asked` with `interrupted` at the first signal, or when the screen is closed (a pipe without a reader, a
 * terminal that is gone). What comes after that is ignored, the cleaning is under way.
 */
function watchInterruptions(screen: DemoScreen): { asked: Promise<never>; forget(): void } {
  let interrupt: (message: string) => void = () => {};
  const asked = new Promise<never>((_, reject) => {
    interrupt = (message) => reject(new Failure('interrupted', message));
  });
  asked.catch(() => {});
  const onSignal = (signal: NodeJS.Signals): void => interrupt(`by ${signal}`);
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  for (const signal of signals) process.on(signal, onSignal);
  // Never taken off again: each later write to a closed screen fails too.
  screen.on('error', () => interrupt('the output was closed'));
  return {
    asked,
    forget() {
      for (const signal of signals) process.off(signal, onSignal);
    },
  };
}

/** The acts, one after the other. */
class Play {
  readonly #stage: Stage;
  readonly #watch: Watch;
  readonly #display: Display;
  readonly #acts: Act[] = [];
  wroteFileSystem = false;

  constructor(stage: Stage, watch: Watch, display: Display) {
    this.#stage = stage;
    this.#watch = watch;
    this.#display = display;
  }

  async run(): Promise<void> {
    const free = await this.#stage.folder.freeSize();
    if (free < SPACE_NEEDED) {
      const where = this.#stage.folder.path;
      throw new Failure('no-space', `${where} has ${formatSize(free)} free, ${formatSize(SPACE_NEEDED)} are needed`);
    }
    const { primary, mirror } = this.#stage;
    this.#display.done(
      `a primary (pid ${primary.pid}) and a mirror (pid ${mirror.pid}) run in ${this.#stage.folder.path}`,
    );
    await this.#firstContact();
    const client = await connectNbd({ network: nodeNetwork, address: this.#stage.nbdAddress, exportName: 'disk' });
    await this.#writeFileSystem(client);
    await this.#shortCut(client);
    await this.#longerCut(client);
    await this.#longCut(client);
    await client.close();
    await this.#compare();
    this.#display.print('', ...actsTable(this.#acts, DISK_SIZE), '');
    await this.#tellSizes();
  }

  async #firstContact(): Promise<void> {
    this.#display.begin('first contact');
    await this.#act('first contact', async () => {
      await this.#watch.inStep(CATCH_UP_TIMEOUT_MS);
    });
    this.#display.done(`${formatSize(DISK_SIZE)} disk, still empty, and the mirror’s image of it are in step`);
  }

  async #writeFileSystem(client: NbdClient): Promise<void> {
    this.#display.begin('making a file system to write');
    const material = await makeMaterial(this.#stage.folder, FILE_SYSTEM_SIZE, systemRandom);
    this.wroteFileSystem = material.isFileSystem;
    const size = dataSize(material.image);
    this.#display.begin(`writing ${material.description} through NBD`);
    const act = await this.#act('file system', async () => {
      await copyImage(client, systemClock, material.image, { size, durationMs: COPY_MS }, (done) =>
        this.#display.progress(done, size),
      );
      this.#display.begin('the mirror follows');
      await this.#watch.inStep(CATCH_UP_TIMEOUT_MS);
    });
    await material.image.close();
    this.#display.done(
      `${material.description}, ${formatSize(size)}, written and on the mirror in ${formatDuration(act.elapsedMs)}`,
    );
  }

  async #shortCut(client: NbdClient): Promise<void> {
    const act = await this.#act('short cut', () =>
      this.#writeAcrossCut(client, SHORT_CUT, 'writing; the link is cut for a while'),
    );
    const how = act.rescanned === undefined ? 'caught up in order, without a rescan' : 'in step again';
    this.#display.done(`link cut while ${formatSize(SHORT_CUT.size)} were written: ${how}`);
  }

  async #longerCut(client: NbdClient): Promise<void> {
    const act = await this.#act('longer cut', () =>
      this.#writeAcrossCut(
        client,
        LONGER_CUT,
        `writing; the link is cut for more than the window of ${formatSize(WINDOW_SIZE)}`,
      ),
    );
    const how = act.rescanned === undefined ? 'caught up in order from the spool on disk' : 'in step again';
    this.#display.done(
      `link cut while ${formatSize(LONGER_CUT.size)} were written, more than the window holds: ${how}`,
    );
  }

  async #longCut(client: NbdClient): Promise<void> {
    let looked: Promise<boolean> | undefined;
    const act = await this.#act('long cut', () =>
      this.#writeAcrossCut(client, LONG_CUT, 'writing; the link is cut for more than window and spool hold', () => {
        looked ??= this.#lookAtMirror();
      }),
    );
    const how =
      act.rescanned === undefined ? 'in step again' : `a rescan sent ${rescanShare(act.rescanned, DISK_SIZE)}`;
    this.#display.done(`link cut while ${formatSize(LONG_CUT.size)} were written, more than both hold: ${how}`);
    if ((await looked) === true)
      this.#display.done(
        'in the middle of the rescan: the mirror’s image is the disk of before, and e2fsck finds it clean',
      );
  }

  /** While a rescan runs: is the file system on the mirror's image whole? Says whether it could be checked. */
  async #lookAtMirror(): Promise<boolean> {
    const e2fsck = findProgram('e2fsck');
    if (!this.wroteFileSystem || e2fsck === undefined) return false;
    try {
      await runToEnd([e2fsck, '-fn', this.#stage.imagePath]);
      return true;
    } catch (error) {
      this.#differ(`the file system on the mirror’s image is damaged during the rescan: ${messageOf(error)}`);
    }
  }

  /** Cuts the link after a tenth of the writes, mends it when the rest is written, waits until the mirror is in step. */
  async #writeAcrossCut(
    client: NbdClient,
    plan: { size: number; durationMs: number },
    step: string,
    onRescan: () => void = () => {},
  ): Promise<void> {
    this.#display.begin(step);
    const { relay } = this.#stage;
    let isCut = false;
    const place = { offset: FILE_SYSTEM_SIZE, length: DISK_SIZE - FILE_SYSTEM_SIZE };
    try {
      await scatter(client, systemClock, systemRandom, { ...place, ...plan }, (done) => {
        this.#display.progress(done, plan.size);
        if (isCut || done < plan.size / 10) return;
        isCut = true;
        relay.cut();
      });
    } finally {
      relay.mend();
    }
    this.#display.begin('the link is back: the mirror catches up');
    await this.#watch.inStep(CATCH_UP_TIMEOUT_MS, onRescan);
  }

  async #compare(): Promise<void> {
    this.#display.begin('nbdtwin verify: comparing digests of both images');
    const report = await this.#stage.verify((progress) =>
      this.#display.progress(progress.comparedSize, progress.scopeSize),
    );
    if (report.differingSize > 0) this.#differ(`verify found ${formatSize(report.differingSize)} that differ`);
    this.#display.done(`nbdtwin verify: identical, ${formatDuration(report.elapsedMs)}`);

    this.#display.begin('comparing both images bit for bit');
    const { diskPath, imagePath } = this.#stage;
    const difference = await firstDifference(diskPath, imagePath, (done) => this.#display.progress(done, DISK_SIZE));
    if (difference !== undefined) this.#differ(`the images differ near byte ${difference}`);
    this.#display.done(`bit for bit: all ${formatSize(DISK_SIZE)} of both images are identical`);

    if (this.#stage.relay.sawMarker) this.#differ('the link carried what was written in clear');
    this.#display.done(
      `on the link: ${formatSize(this.#stage.relay.carriedSize)}, nothing of what was written in clear`,
    );
    await this.#checkFileSystem();
  }

  async #checkFileSystem(): Promise<void> {
    const e2fsck = findProgram('e2fsck');
    if (!this.wroteFileSystem || e2fsck === undefined) return;
    this.#display.begin('checking the file system on the mirror’s image');
    try {
      await runToEnd([e2fsck, '-fn', this.#stage.imagePath]);
    } catch (error) {
      this.#differ(`the file system on the mirror’s image is damaged: ${messageOf(error)}`);
    }
    this.#display.done('e2fsck: the file system on the mirror’s image is clean');
  }

  async #tellSizes(): Promise<void> {
    const { folder } = this.#stage;
    const disk = formatSize(await folder.occupiedSize('disk.img'));
    const image = formatSize(await folder.occupiedSize('mirror/disk.img'));
    this.#display.print(
      `Of ${formatSize(DISK_SIZE)} the disk occupies ${disk}, the mirror’s image ${image}: zeroes stay holes.`,
    );
  }

  #differ(what: string): never {
    this.#display.failed(what);
    throw new Failure('differences-found', what);
  }

  /** Performs one act and enters it in the table. */
  async #act(name: string, perform: () => Promise<void>): Promise<Act> {
    const before = await this.#stage.status();
    const wireBefore = this.#stage.relay.carriedSize;
    this.#watch.takeMostLag();
    const startMs = systemClock.nowMs();
    await perform();
    const after = await this.#stage.status();
    const act: Act = {
      name,
      before: totalsOf(before, wireBefore),
      after: totalsOf(after, this.#stage.relay.carriedSize),
      mostLag: this.#watch.takeMostLag(),
      elapsedMs: systemClock.nowMs() - startMs,
      rescanned: rescannedSince(before, after),
    };
    this.#acts.push(act);
    return act;
  }
}
