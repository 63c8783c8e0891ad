/**
 * A state file on a disk that finishes each call when told, fails it when told, and keeps or loses each sector written
 * and not synced when the power goes, independently. One file; it outlives who has it open.
 */
import { Failure } from '../../../src/base/failure.ts';
import type { Disk, FileSystem } from '../../../src/io/disk.ts';
import { MemoryDisk } from '../../support/memory-disk.ts';
import { MemoryFiles } from '../../support/memory-files.ts';

const SECTOR_SIZE = 512;

interface SectorWrite {
  readonly at: number;
  readonly bytes: Buffer;
  /** A sync that should have covered it failed: the kernel does not try again. */
  abandoned: boolean;
}

interface Call {
  readonly kind: 'write' | 'sync';
  readonly offset: number;
  readonly size: number;
  /** Takes effect; who asked is not told. */
  happen(): void;
  finish(): void;
  fail(failure: Failure): void;
}

export const TOLD_PATH = '/state/dirty';

export class ToldFile {
  /** What a reader sees; undefined while there is no file. */
  cache: Buffer | undefined;
  #durable: Buffer;
  #unsynced: SectorWrite[] = [];
  /** Under way, the oldest first. */
  calls: Call[] = [];
  /** False: calls wait to be told. */
  isPrompt = true;
  readonly counts = { write: 0, sync: 0 };

  constructor(content: Buffer | undefined) {
    this.cache = content === undefined ? undefined : Buffer.from(content);
    this.#durable = Buffer.from(content ?? Buffer.alloc(0));
  }

  get files(): FileSystem {
    return new ToldFiles(this);
  }

  /** What a power cut now leaves when `survives` says so for each sector written and not synced, oldest first. */
  cut(survives: () => boolean): Buffer {
    const content = Buffer.from(this.#durable);
    for (const { at, bytes } of this.#unsynced) if (survives()) bytes.copy(content, at);
    return content;
  }

  /** The process is gone: what it had asked for may still happen, or not, and nobody is told. */
  kill(happens: () => boolean): void {
    for (const call of this.calls.splice(0)) if (happens()) call.happen();
  }

  /** Appears whole and durable. */
  replace(content: Uint8Array): void {
    this.cache = Buffer.from(content);
    this.#durable = Buffer.from(content);
    this.#unsynced = [];
  }

  write(data: Uint8Array, offset: number): Promise<void> {
    this.counts.write += 1;
    const bytes = Buffer.from(data);
    return this.#call('write', offset, data.length, () => {
      bytes.copy(this.cache!, offset);
      for (let from = 0; from < bytes.length; from += SECTOR_SIZE) {
        const sector = bytes.subarray(from, from + SECTOR_SIZE);
        this.#unsynced.push({ at: offset + from, bytes: sector, abandoned: false });
      }
    });
  }

  sync(): Promise<void> {
    this.counts.sync += 1;
    const covered = this.#unsynced.filter(({ abandoned }) => !abandoned);
    const finish = (): void => {
      for (const write of covered) write.bytes.copy(this.#durable, write.at);
      // What came before it on the same sector can no longer arrive after it.
      const newest = new Map(covered.map((write) => [write.at, this.#unsynced.indexOf(write)]));
      this.#unsynced = this.#unsynced.filter((write, index) => index > (newest.get(write.at) ?? -1));
    };
    const fail = (): void => {
      for (const write of covered) write.abandoned = true;
    };
    return this.#call('sync', 0, 0, finish, fail);
  }

  #call(
    kind: Call['kind'],
    offset: number,
    size: number,
    effect: () => void,
    failed: () => void = () => undefined,
  ): Promise<void> {
    if (this.isPrompt) {
      effect();
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      this.calls.push({
        kind,
        offset,
        size,
        happen: effect,
        finish: () => {
          effect();
          resolve();
        },
        fail: (failure) => {
          failed();
          reject(failure);
        },
      });
    });
  }

  /** Ends the oldest call, well or with a failure. Only one is ever under way on a map's file. */
  tell(failure?: Failure): Call['kind'] {
    const call = this.calls.shift();
    if (call === undefined) throw new Error('nothing is under way');
    if (failure === undefined) call.finish();
    else call.fail(failure);
    return call.kind;
  }
}

class ToldFiles extends MemoryFiles {
  readonly #file: ToldFile;

  constructor(file: ToldFile) {
    super();
    this.#file = file;
  }

  override async readFile(path: string, sizeMax: number): Promise<Buffer | undefined> {
    if (path !== TOLD_PATH) throw new Failure('disk-missing', path);
    const { cache } = this.#file;
    if (cache !== undefined && cache.length > sizeMax) throw new Failure('overflow', path);
    return cache === undefined ? undefined : Buffer.from(cache);
  }

  override async replaceFile(path: string, data: Uint8Array): Promise<void> {
    if (path !== TOLD_PATH) throw new Failure('disk-missing', path);
    this.#file.replace(data);
  }

  override async openState(): Promise<Disk> {
    return new ToldDisk(this.#file);
  }
}

/** One opening. */
class ToldDisk extends MemoryDisk {
  readonly #file: ToldFile;

  constructor(file: ToldFile) {
    super(0);
    this.#file = file;
  }

  override write(data: Uint8Array, offset: number): Promise<void> {
    return this.#file.write(data, offset);
  }

  override sync(): Promise<void> {
    return this.#file.sync();
  }
}
