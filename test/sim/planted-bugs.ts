/**
 * Bugs that can be planted into the product while the simulator is bundled, to see that it finds them: `npm run sim --
 * --plant NAME`, or `--planted` for the whole table. A text that is not in its file exactly once fails loudly, here and
 * in planted-bugs.test.ts: a bug that was not planted would be one that is never found.
 */

interface PlantedEdit {
  readonly file: string;
  readonly find: string;
  readonly replace: string;
}

export interface PlantedBug {
  readonly name: string;
  /** What goes wrong, for the table. */
  readonly what: string;
  /** One for each place that has to be wrong. */
  readonly edits: readonly PlantedEdit[];
}

export const PLANTED_BUGS: readonly PlantedBug[] = [
  {
    name: 'zero-block-last-byte',
    what: 'a block of zeroes with a last byte that is none is taken for a hole',
    edits: [
      {
        file: 'src/io/digest.ts',
        find: 'if (zeroes.compare(data, done, done + size, 0, size) !== 0) return false;',
        replace: 'if (zeroes.compare(data, done, done + size - 1, 0, size - 1) !== 0) return false;',
      },
    ],
  },
  {
    name: 'lock-released-early',
    what: 'the range lock is released before the operation stands in the stream',
    edits: [
      {
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
    ],
  },
  {
    name: 'next-epoch-before-sync',
    what: 'the next epoch touches the image before the one before it is synced',
    edits: [
      {
        file: 'src/mirror/applier.ts',
        find: `        return this.#barrier === undefined
          ? this.#mutate(frame)
          : this.#barrier.then(() => this.#mutateUnlessStopped(frame));`,
        replace: '        return this.#mutate(frame);',
      },
    ],
  },
  {
    name: 'barrier-ignored',
    what: 'barriers in the stream are passed over',
    edits: [
      {
        file: 'src/mirror/applier.ts',
        find: '    const syncing = target.barrier();',
        replace: '    const syncing = target === undefined ? target : undefined;',
      },
    ],
  },
  {
    name: 'recorded-before-synced',
    what: 'a position is recorded before the image is synced',
    edits: [
      {
        file: 'src/mirror/direct-target.ts',
        find: '    if (positions.durable < positions.applied) await this.sync();',
        replace: '    positions.synced(positions.applied);',
      },
    ],
  },
  {
    name: 'mirror-sync-failure-forgotten',
    what: 'a failed fdatasync of the image is forgotten',
    edits: [
      {
        file: 'src/mirror/direct-target.ts',
        find: `      positions.syncFailed();
      throw error;`,
        replace: `      if (error === undefined) throw error;`,
      },
    ],
  },
  {
    name: 'primary-sync-failure-forgotten',
    what: 'a failed fdatasync of the disk is forgotten: the next one is believed',
    edits: [
      {
        file: 'src/volume/disk-volume.ts',
        find: '        this.#syncFailure ??= error instanceof Error ? error : new Error(String(error));',
        replace: '        throw new Failure("io-error", String(error));',
      },
    ],
  },
  {
    name: 'commit-before-data-synced',
    what: 'a staged run is committed before its data is synced',
    edits: [
      {
        file: 'src/store/staging.ts',
        find: '      await this.#data.sync();',
        replace: '      await null;',
      },
    ],
  },
  {
    name: 'mark-after-write',
    what: 'a region is marked after the write has reached the disk',
    edits: [
      {
        file: 'src/primary/replicating-volume.ts',
        find: `      if (!this.#ledger.admits(offset, length)) await this.#ledger.admit(offset, length);
      try {
        await mutate();`,
        replace: `      await this.#ledger.start();
      let failed: { readonly error: unknown } | undefined;
      try {
        await mutate();
      } catch (error) {
        failed = { error };
      }
      if (!this.#ledger.admits(offset, length)) await this.#ledger.admit(offset, length);
      try {
        if (failed !== undefined) throw failed.error;`,
      },
    ],
  },
  {
    name: 'mark-cleared-by-mirror-alone',
    what: 'a mark is cleared when the mirror holds the region durably, whatever this disk does',
    edits: [
      {
        file: 'src/primary/open-primary.ts',
        find: 'locallyDurable: () => ledger.locallyDurable,',
        replace: 'locallyDurable: () => ledger.sequence,',
      },
    ],
  },
  {
    name: 'clear-racing-write',
    what: 'a mark is cleared under a write that has begun, and nothing notices',
    edits: [
      {
        file: 'src/primary/open-primary.ts',
        find: 'isFree: (offset, length) => local.lock.isFree(offset, length),',
        replace: 'isFree: () => true,',
      },
      {
        file: 'src/primary/ledger.ts',
        find: "    assert(this.#map === undefined || this.#map.covers(offset, length), 'a region is marked before it is mutated');\n",
        replace: '',
      },
    ],
  },
  {
    name: 'mark-believed-while-cleared',
    what: 'a mark is believed until its clear is durable: a write meanwhile sets none',
    edits: [
      {
        file: 'src/store/dirty-plane.ts',
        find: `  unmark(region: number): void {
    this.#durable.clear(region);
    this.#marked.clear(region);
  }`,
        replace: `  unmark(region: number): void {
    this.#marked.clear(region);
  }

  letGo(region: number): void {
    if (!this.#marked.get(region)) this.#durable.clear(region);
  }`,
      },
      {
        file: 'src/store/dirty-map.ts',
        find: '    await this.#nextGroup().clear.wait();',
        replace: `    await this.#nextGroup().clear.wait();
    for (const region of regions) marks.letGo(region);`,
      },
      {
        file: 'src/primary/ledger.ts',
        find: "    assert(this.#map === undefined || this.#map.covers(offset, length), 'a region is marked before it is mutated');\n",
        replace: '',
      },
    ],
  },
  {
    name: 'sequence-reused',
    what: 'a start after an unclean stop goes on in the same run, with sequences that were given before',
    edits: [
      {
        file: 'src/primary/last-stop.ts',
        find: `    identity,
    run: world.random.bytes(ID_SIZE),
    earlierRuns: runsUpTo(before),`,
        replace: '    identity,',
      },
    ],
  },
  {
    name: 'resume-as-if-exact',
    what: 'a mirror that had died is taken to be exactly where it was recorded: what it had applied comes again, over it',
    edits: [
      {
        file: 'src/mirror/image-positions.ts',
        find: '    this.#exact = clean;',
        replace: '    this.#exact = true;',
      },
    ],
  },
  {
    name: 'merged-piecewise',
    what: 'a merged part goes straight into the image, piece by piece',
    edits: [
      {
        file: 'src/primary/merged-run.ts',
        find: '    means.remark(FrameType.STAGE, 0, means.sequence(), 0, 0, stagingId);\n',
        replace: '',
      },
    ],
  },
  {
    name: 'spool-reused-before-recorded',
    what: 'what was read from the spool is let go of when it has been sent, not when it is recorded',
    edits: [
      {
        file: 'src/primary/overflow.ts',
        find: 'else window.push(code, flags, sequence, offset, length, data, false, atMs);',
        replace: 'else window.push(code, flags, sequence, offset, length, data, true, atMs);',
      },
    ],
  },
  {
    name: 'answered-before-mirror',
    what: 'in `flush` and `sync` requests are answered without waiting while the mirror counts',
    edits: [
      {
        file: 'src/primary/agreement.ts',
        find: 'if (this.#counting && sequence <= reached) return undefined;',
        replace: 'if (this.#counting && sequence >= 0 && reached >= NONE) return undefined;',
      },
    ],
  },
  {
    name: 'answered-during-staged-run',
    what: 'what a mirror has staged counts as its image, before the commit',
    edits: [
      {
        file: 'src/primary/mirror-link.ts',
        find: 'this.#agreement.counts(near && !this.#staged);',
        replace: 'this.#agreement.counts(near);',
      },
      {
        file: 'src/primary/session.ts',
        find: 'if (!this.#staged) this.#events.acknowledged(this.#positions);',
        replace:
          'this.#events.acknowledged(this.#staged ? { ...this.#positions, applied: staged, durable: staged } : this.#positions);',
      },
    ],
  },
];

/** The source of a file with the bug in it. */
export function plant(bug: PlantedBug, file: string, source: string): string {
  let planted = source;
  for (const edit of bug.edits) {
    if (edit.file !== file) continue;
    const parts = planted.split(edit.find);
    if (parts.length !== 2) {
      throw new Error(`${bug.name}: the text to replace stands ${parts.length - 1} times in ${file}`);
    }
    planted = parts.join(edit.replace);
  }
  return planted;
}
