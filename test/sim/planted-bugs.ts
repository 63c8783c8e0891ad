/**
 * Bugs that can be planted into the product while the simulator is bundled, to see that it finds them: `npm run sim --
 * --plant NAME`, or `--planted` for the whole table. A text that is not in its file exactly once fails loudly, here and
 * in planted-bugs.test.ts: a bug that was not planted would be one that is never found.
 */

export interface PlantedBug {
  readonly name: string;
  /** What goes wrong, for the table. */
  readonly what: string;
  readonly file: string;
  readonly find: string;
  readonly replace: string;
}

export const PLANTED_BUGS: readonly PlantedBug[] = [
  {
    name: 'zero-block-last-byte',
    what: 'a block of zeroes with a last byte that is none is taken for a hole',
    file: 'src/io/digest.ts',
    find: 'if (zeroes.compare(data, done, done + size, 0, size) !== 0) return false;',
    replace: 'if (zeroes.compare(data, done, done + size - 1, 0, size - 1) !== 0) return false;',
  },
  {
    name: 'lock-released-early',
    what: 'the range lock is released before the operation stands in the stream',
    file: 'src/primary/replicating-volume.ts',
    find: `      sequence = enter();
    } finally {
      this.#local.lock.release(hold);
    }`,
    replace: `    } finally {
      this.#local.lock.release(hold);
    }
    await this.#local.disk.identity();
    sequence = enter();`,
  },
  {
    name: 'next-epoch-before-sync',
    what: 'the next epoch touches the image before the one before it is synced',
    file: 'src/mirror/applier.ts',
    find: `        return this.#barrier === undefined
          ? this.#mutate(frame)
          : this.#barrier.then(() => this.#mutateUnlessStopped(frame));`,
    replace: '        return this.#mutate(frame);',
  },
  {
    name: 'barrier-ignored',
    what: 'barriers in the stream are passed over',
    file: 'src/mirror/applier.ts',
    find: '    const syncing = target.barrier();',
    replace: '    const syncing = target === undefined ? target : undefined;',
  },
  {
    name: 'recorded-before-synced',
    what: 'a position is recorded before the image is synced',
    file: 'src/mirror/direct-target.ts',
    find: '    if (positions.durable < positions.applied) await this.sync();',
    replace: '    positions.synced(positions.applied);',
  },
  {
    name: 'mirror-sync-failure-forgotten',
    what: 'a failed fdatasync of the image is forgotten',
    file: 'src/mirror/direct-target.ts',
    find: `      positions.syncFailed();
      throw error;`,
    replace: `      if (error === undefined) throw error;`,
  },
  {
    name: 'primary-sync-failure-forgotten',
    what: 'a failed fdatasync of the disk is forgotten: the next one is believed',
    file: 'src/volume/disk-volume.ts',
    find: '        this.#syncFailure ??= error instanceof Error ? error : new Error(String(error));',
    replace: '        throw new Failure("io-error", String(error));',
  },
  {
    name: 'commit-before-data-synced',
    what: 'a staged run is committed before its data is synced',
    file: 'src/store/staging.ts',
    find: '      await this.#data.sync();',
    replace: '      await null;',
  },
];

/** The source of a file with the bug in it. */
export function plant(bug: PlantedBug, source: string): string {
  const parts = source.split(bug.find);
  if (parts.length !== 2) {
    throw new Error(`${bug.name}: the text to replace stands ${parts.length - 1} times in ${bug.file}`);
  }
  return parts.join(bug.replace);
}
