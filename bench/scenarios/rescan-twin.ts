/** A primary and its mirror whose ends are started and stopped one by one, and what a rescan between them costs. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { MirrorLinkStatus } from '../../dist/primary/status.js';
import { EXPORT_NAME, type Mirror, makeSecret, type Primary, startMirror, startPrimary } from '../common/nbdtwin.ts';
import { until } from '../common/until.ts';
import { memoryOf, preciseCpuSecondsOf } from '../common/usage.ts';

const TIMEOUT_MS = 15 * 60_000;

/** What one rescan, or first seeding, has cost. */
export interface RescanCost {
  /** From its first question until everything is in the image. */
  readonly seconds: number;
  readonly scopeSize: number;
  readonly shippedSize: number;
  /** Bytes on the link, both directions, before TLS; the whole session. */
  readonly wireSize: number;
  readonly passes: number;
  readonly primaryCpuSeconds: number;
  readonly mirrorCpuSeconds: number;
  /** Bytes, afterwards. */
  readonly primaryMemory: number;
  readonly mirrorMemory: number;
}

/** Before a rescan; of an end that is not running yet everything is nothing. */
export interface Used {
  readonly primaryCpuSeconds: number;
  readonly mirrorCpuSeconds: number;
  readonly wireSize: number;
  /** Tells the last rescan from the one to come. */
  readonly lastRescanMs: number | undefined;
}

export class RescanTwin {
  readonly folder: string;
  readonly secret: string;
  readonly disk: string;
  readonly image: string;
  readonly #directory: string;
  #mirror: Mirror | undefined;
  #primary: Primary | undefined;
  #port = 0;

  private constructor(folder: string, secret: string, disk: string) {
    this.folder = folder;
    this.secret = secret;
    this.disk = disk;
    this.#directory = join(folder, 'mirror');
    this.image = join(this.#directory, `${EXPORT_NAME}.img`);
  }

  /** Nothing runs yet; the disk is there already. */
  static async make(folder: string, disk: string): Promise<RescanTwin> {
    const twin = new RescanTwin(folder, await makeSecret(folder), disk);
    await mkdir(twin.#directory);
    return twin;
  }

  get primary(): Primary {
    if (this.#primary === undefined) throw new Error('the primary is not running');
    return this.#primary;
  }

  async startMirror(flags: readonly string[] = []): Promise<void> {
    const listen = this.#port === 0 ? [] : ['--listen', `127.0.0.1:${this.#port}`];
    this.#mirror = await startMirror(this.#directory, this.folder, this.secret, [...flags, ...listen]);
    this.#port = this.#mirror.port;
  }

  async startPrimary(flags: readonly string[] = []): Promise<void> {
    const link = ['--mirror', `127.0.0.1:${this.#port}`, '--secret-file', this.secret];
    this.#primary = await startPrimary(this.disk, this.folder, [...link, ...flags]);
  }

  async stopPrimary(): Promise<void> {
    await this.#primary?.child.stop();
    this.#primary = undefined;
  }

  async stopMirror(): Promise<void> {
    await this.#mirror?.child.stop();
    this.#mirror = undefined;
  }

  async stop(): Promise<void> {
    await this.stopPrimary();
    await this.stopMirror();
  }

  async linkStatus(): Promise<MirrorLinkStatus> {
    const status = (await this.primary.status()).replication?.mirrors[0];
    if (status === undefined) throw new Error('the primary knows no mirror');
    return status;
  }

  /** Resolves when the mirror streams and has applied everything. */
  inStep(): Promise<MirrorLinkStatus> {
    return until('the mirror is not in step', TIMEOUT_MS, async () => {
      const status = await this.linkStatus();
      return status.state === 'streaming' && status.lag.operations === 0 ? status : undefined;
    });
  }

  /** Starts the primary, which rescans or seeds at once, waits until both are in step, and stops it. */
  async rescan(flags: readonly string[] = ['--rescan']): Promise<RescanCost> {
    const before = await this.#used(undefined);
    await this.startPrimary(flags);
    const cost = await this.costSince(before);
    await this.stopPrimary();
    return cost;
  }

  /** Starts the primary, waits until both are in step, compares them, and stops it. Fails when something differs. */
  async verify(): Promise<RescanCost> {
    await this.startPrimary();
    await this.inStep();
    const before = await this.used();
    const { elapsedMs, comparedSize, differingSize } = await this.primary.verify();
    if (differingSize > 0) throw new Error(`${differingSize} bytes differ`);
    const cost = await this.#cost(before, {
      seconds: elapsedMs / 1000,
      scopeSize: comparedSize,
      shippedSize: 0,
      passes: 1,
    });
    await this.stopPrimary();
    return cost;
  }

  /** What the two have used and done so far. */
  async used(): Promise<Used> {
    return this.#used(await this.linkStatus());
  }

  /** Waits for the first rescan that ends after `before`, and until both are in step. */
  async costSince(before: Used): Promise<RescanCost> {
    const status = await until('no rescan', TIMEOUT_MS, async () => {
      const now = await this.linkStatus();
      const complete = now.lastRescan !== undefined && now.lastRescan.elapsedMs !== before.lastRescanMs;
      return complete && now.state === 'streaming' && now.lag.operations === 0 ? now : undefined;
    });
    const { elapsedMs, scopeSize, shippedSize, pass } = status.lastRescan!;
    return this.#cost(before, { seconds: elapsedMs / 1000, scopeSize, shippedSize, passes: pass });
  }

  async #cost(
    before: Used,
    known: Pick<RescanCost, 'seconds' | 'scopeSize' | 'shippedSize' | 'passes'>,
  ): Promise<RescanCost> {
    const after = await this.used();
    return {
      ...known,
      wireSize: after.wireSize - before.wireSize,
      primaryCpuSeconds: after.primaryCpuSeconds - before.primaryCpuSeconds,
      mirrorCpuSeconds: after.mirrorCpuSeconds - before.mirrorCpuSeconds,
      primaryMemory: await memoryOf([this.primary.child.pid]),
      mirrorMemory: await memoryOf([this.#mirrorPid]),
    };
  }

  get #mirrorPid(): number {
    if (this.#mirror === undefined) throw new Error('the mirror is not running');
    return this.#mirror.child.pid;
  }

  async #used(status: MirrorLinkStatus | undefined): Promise<Used> {
    return {
      primaryCpuSeconds: status === undefined ? 0 : await preciseCpuSecondsOf([this.primary.child.pid]),
      mirrorCpuSeconds: this.#mirror === undefined ? 0 : await preciseCpuSecondsOf([this.#mirrorPid]),
      wireSize: status === undefined ? 0 : status.wireSent + status.wireReceived,
      lastRescanMs: status?.lastRescan?.elapsedMs,
    };
  }
}
