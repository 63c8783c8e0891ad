/**
 * What lies at a range of the disk: the file, as far as the file system on it tells. For people who read that a range
 * differs; nothing depends on it.
 *
 * ext2/3/4 are asked through `debugfs`, XFS through `xfs_db`, both reading only, for the first block of the range. The file
 * system is in use meanwhile, so the answer is that of what has been written back by now. It must begin at offset 0 of
 * the disk: partition tables are not followed. Where the program is missing, fails, takes too long or says too much, or
 * the block belongs to no file, nothing is told.
 */
import { GIB } from '../base/units.ts';
import type { Disk } from '../io/disk.ts';
import { findProgram, runBriefly } from '../io/programs.ts';

const TIMEOUT_MS = 20_000;
const OUTPUT_SIZE_MAX = 64 * 1024;
/** xfs_db reads all of the metadata first, and keeps a note of every block. */
const XFS_SIZE_MAX = 64 * GIB;
/** Bytes at the start of the disk in which the superblock lies. */
const HEAD_SIZE = 2048;
const SECTOR_SIZE = 512;

interface Range {
  readonly offset: number;
  readonly length: number;
}

type Owners = readonly (string | undefined)[];

type FileSystemKind = { readonly kind: 'ext'; readonly blockSize: number } | { readonly kind: 'xfs' };

export class RangeOwners {
  readonly #disk: Disk;
  readonly #path: string;
  readonly #abort = new AbortController();
  /** One question at a time. */
  #last: Promise<unknown> = Promise.resolve();

  /** `path` names the disk for other programs. */
  constructor(disk: Disk, path: string) {
    this.#disk = disk;
    this.#path = path;
  }

  /** The owner of each range, in their order. Settles within a minute or so; never rejects. */
  of(ranges: readonly Range[]): Promise<Owners> {
    const answer = this.#last
      .then(() => this.#of(ranges))
      .then((owners) => owners.map(printable))
      .catch(() => ranges.map(() => undefined));
    this.#last = answer;
    return answer;
  }

  /** What is being asked is given up. */
  close(): void {
    this.#abort.abort();
  }

  async #of(ranges: readonly Range[]): Promise<Owners> {
    const nobody = ranges.map(() => undefined);
    if (ranges.length === 0 || this.#abort.signal.aborted) return nobody;
    const head = Buffer.alloc(HEAD_SIZE);
    await this.#disk.read(head, 0);
    const fileSystem = fileSystemOf(head);
    if (fileSystem?.kind === 'ext') return this.#ofExt(ranges, fileSystem.blockSize);
    if (fileSystem?.kind === 'xfs' && this.#disk.size <= XFS_SIZE_MAX) return this.#ofXfs(ranges);
    return nobody;
  }

  async #ofExt(ranges: readonly Range[], blockSize: number): Promise<Owners> {
    const blocks = ranges.map(({ offset }) => Math.floor(offset / blockSize));
    // -c: without the bitmaps, which are large and may be just being written.
    const inodes = inodesIn((await this.#ask('debugfs', ['-c', '-R', `icheck ${blocks.join(' ')}`, this.#path])) ?? '');
    const known = [...new Set(inodes.values())];
    if (known.length === 0) return ranges.map(() => undefined);
    const paths = pathsIn((await this.#ask('debugfs', ['-c', '-R', `ncheck ${known.join(' ')}`, this.#path])) ?? '');
    return blocks.map((block) => {
      const inode = inodes.get(block);
      return inode === undefined ? undefined : (paths.get(inode) ?? `inode ${inode}`);
    });
  }

  async #ofXfs(ranges: readonly Range[]): Promise<Owners> {
    const asFile = this.#disk.kind === 'file' ? ['-f'] : [];
    const questions = ranges.flatMap(({ offset }) => [
      '-c',
      `daddr ${Math.floor(offset / SECTOR_SIZE)}`,
      '-c',
      'blockuse -n',
    ]);
    const text = await this.#ask('xfs_db', ['-r', ...asFile, '-c', 'blockget -n', ...questions, this.#path]);
    const uses = usesIn(text ?? '');
    return uses.length === ranges.length ? uses : ranges.map(() => undefined);
  }

  async #ask(program: string, args: readonly string[]): Promise<string | undefined> {
    const path = findProgram(program);
    if (path === undefined) return undefined;
    const { signal } = this.#abort;
    return runBriefly([path, ...args], { timeoutMs: TIMEOUT_MS, sizeMax: OUTPUT_SIZE_MAX, signal });
  }
}

/** Whoever writes to the disk chooses names: a terminal must not obey them. */
function printable(owner: string | undefined): string | undefined {
  return owner?.replace(/\p{Cc}|\p{Cf}/gu, '?');
}

/** The file system that begins at the start of a disk, by its magic. `head`: the first 2048 bytes. */
export function fileSystemOf(head: Buffer): FileSystemKind | undefined {
  if (head.toString('latin1', 0, 4) === 'XFSB') return { kind: 'xfs' };
  const shift = head.readUInt32LE(1024 + 24);
  if (head.readUInt16LE(1024 + 56) !== 0xef53 || shift > 6) return undefined;
  return { kind: 'ext', blockSize: 1024 * 2 ** shift };
}

/** What `debugfs icheck` says: the inode of each block that has one. */
export function inodesIn(text: string): Map<number, number> {
  return new Map([...text.matchAll(/^(\d+)\t(\d+)$/gm)].map(([, block, inode]) => [Number(block), Number(inode)]));
}

/** What `debugfs ncheck` says: a path of each inode that has one. */
export function pathsIn(text: string): Map<number, string> {
  const found = [...text.matchAll(/^(\d+)\t(\/.*)$/gm)].map(([, inode, path]): [number, string] => [
    Number(inode),
    path!.replace(/^\/+/, '/'),
  ]);
  return new Map(found);
}

/** What `xfs_db blockuse -n` says, one line for each question: the path, the inode, or undefined for what has neither. */
export function usesIn(text: string): (string | undefined)[] {
  return [...text.matchAll(/^block \d+ \(\d+\/\d+\) type (\S+)(?: inode (\d+))?(?: (.+))?$/gm)].map(
    ([, , inode, path]) => {
      if (inode === undefined) return undefined;
      return path === undefined ? `inode ${inode}` : `/${path}`;
    },
  );
}
