/**
 * The disks of one host: its files by path, the names as the medium has them, and the space.
 *
 * A name that was made, moved or removed is durable once its directory was synced; at a power loss each name that was
 * not goes back to one of the states that it had since, independently of the others. A kill of a process leaves all of
 * this alone, except what the process had asked for and not got yet.
 */
import { dirname } from 'node:path';
import { Failure, type FailureCode } from '../../src/base/failure.ts';
import type { SeededRandom } from './random.ts';
import { type Fate, StoredFile } from './stored-file.ts';

export type Entry = StoredFile | 'directory';

/** A call that a fault can hit. */
export type Call = 'open' | 'read' | 'write' | 'zero' | 'punch' | 'sync' | 'replace' | 'name' | 'resize' | 'reserve';

export interface Fault {
  readonly call: Call;
  /** Part of the path. */
  readonly path: string;
  readonly code: FailureCode;
  /** Calls that still succeed before. */
  after: number;
  /** Calls that then fail. */
  times: number;
}

interface Naming {
  readonly directory: string;
  readonly path: string;
  readonly target: Entry | undefined;
}

export class Medium {
  readonly name: string;
  readonly random: SeededRandom;
  /** Bytes of all files together. */
  capacity = Number.POSITIVE_INFINITY;
  /** Waiting for their moment, or at work. */
  faults: Fault[] = [];
  /** Told when a sync has failed, and pages of the file are lost. */
  syncFailed: (path: string) => void = () => undefined;
  #entries = new Map<string, Entry>();
  #durable = new Map<string, Entry>();
  #namings: Naming[] = [];
  #inodeCount = 0;

  constructor(name: string, random: SeededRandom) {
    this.name = name;
    this.random = random;
  }

  get(path: string): Entry | undefined {
    return this.#entries.get(path);
  }

  /** The file behind a path. */
  file(path: string): StoredFile | undefined {
    const entry = this.#entries.get(path);
    return entry === 'directory' ? undefined : entry;
  }

  get paths(): string[] {
    return [...this.#entries.keys()];
  }

  newFile(size: number, nowNs: bigint): StoredFile {
    this.#inodeCount += 1;
    return new StoredFile(`${this.name}:${this.#inodeCount}`, size, nowNs);
  }

  /** Gives a name, or with undefined takes it away. Durable after `syncDirectory`. */
  put(path: string, target: Entry | undefined): void {
    if (target === undefined) this.#entries.delete(path);
    else this.#entries.set(path, target);
    this.#namings.push({ directory: dirname(path), path, target });
  }

  syncDirectory(directory: string): void {
    for (const naming of this.#namings) if (naming.directory === directory) this.#settle(naming);
    this.#namings = this.#namings.filter((naming) => naming.directory !== directory);
  }

  /** Names inside a directory. */
  list(directory: string): string[] {
    const prefix = `${directory}/`;
    const names: string[] = [];
    for (const path of this.#entries.keys()) {
      if (path.startsWith(prefix) && !path.includes('/', prefix.length)) names.push(path.slice(prefix.length));
    }
    return names.sort();
  }

  get usedSize(): number {
    let size = 0;
    for (const entry of this.#entries.values()) if (entry !== 'directory') size += entry.allocatedSize;
    return size;
  }

  /** Bytes in files whose path begins so. */
  sizeUnder(prefix: string): number {
    let size = 0;
    for (const [path, entry] of this.#entries) {
      if (entry !== 'directory' && path.startsWith(prefix)) size += entry.allocatedSize;
    }
    return size;
  }

  get freeSize(): number {
    return this.capacity === Number.POSITIVE_INFINITY ? this.capacity : Math.max(0, this.capacity - this.usedSize);
  }

  /** The failure that a fault has in store for this call, if any. */
  failureOf(call: Call, path: string): Failure | undefined {
    if (this.faults.length === 0) return undefined;
    for (const fault of this.faults) {
      if (fault.call !== call || fault.times === 0 || !path.includes(fault.path)) continue;
      if (fault.after > 0) {
        fault.after -= 1;
        continue;
      }
      fault.times -= 1;
      if (fault.times === 0) this.faults = this.faults.filter((other) => other !== fault);
      return new Failure(fault.code, `${path}: ${call} fails, as the simulator wants it`);
    }
    return undefined;
  }

  /** The power goes: what was not synced is kept, lost or torn. */
  powerLost(fate: Fate): void {
    const { random } = this;
    // Each name keeps the first few of its changes.
    const stopped = new Set<string>();
    for (const naming of this.#namings) {
      if (stopped.has(naming.path)) continue;
      if (random.chance(fate.kept + fate.torn / 2)) this.#settle(naming);
      else stopped.add(naming.path);
    }
    this.#namings = [];
    this.#entries = new Map(this.#durable);
    for (const entry of this.#entries.values()) if (entry !== 'directory') entry.powerLost(fate, random);
  }

  /** The process dies, the host lives on. */
  unlockAll(): void {
    for (const entry of this.#entries.values()) if (entry !== 'directory') entry.locked = false;
  }

  /** A copy that goes its own way. */
  clone(random: SeededRandom): Medium {
    const copy = new Medium(this.name, random);
    const files = new Map<StoredFile, StoredFile>();
    const cloned = (entry: Entry): Entry => {
      if (entry === 'directory') return entry;
      let file = files.get(entry);
      if (file === undefined) {
        file = entry.clone();
        files.set(entry, file);
      }
      return file;
    };
    for (const [path, entry] of this.#entries) copy.#entries.set(path, cloned(entry));
    for (const [path, entry] of this.#durable) copy.#durable.set(path, cloned(entry));
    copy.#namings = this.#namings.map((naming) => ({
      ...naming,
      target: naming.target === undefined ? undefined : cloned(naming.target),
    }));
    copy.#inodeCount = this.#inodeCount;
    copy.capacity = this.capacity;
    return copy;
  }

  /** Takes over the files of a copy: the host is put back to an older state of itself. Nothing may be open. */
  restore(from: Medium): void {
    const copy = from.clone(this.random);
    this.#entries = copy.#entries;
    this.#durable = copy.#durable;
    this.#namings = copy.#namings;
  }

  #settle(naming: Naming): void {
    if (naming.target === undefined) this.#durable.delete(naming.path);
    else this.#durable.set(naming.path, naming.target);
  }
}
