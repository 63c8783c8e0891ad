/** What the dirty map costs a write whose regions are marked already: a bit test, and a note of the region's last write. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { nodeFileSystem } from '../../dist/io/node-file-system.js';
import { Ledger } from '../../dist/primary/ledger.js';
import { RegionSequences } from '../../dist/primary/region-sequences.js';
import { DirtyMap } from '../../dist/store/dirty-map.js';
import { type Figure, measure } from './measure.ts';
import { BLOCK_SIZE, scatteredBlocks } from './ranges.ts';

/** Regions of 1 MiB: the map takes 128 KiB of memory, the sequences 8 MiB. */
const DISK_SIZE = 2 ** 40;
/** The blocks lie that far apart at least. */
const STRIDE = DISK_SIZE / 2 ** 18;

export async function benchAdmission(): Promise<Figure[]> {
  const folder = await mkdtemp(join(tmpdir(), 'nbdtwin-bench-'));
  const path = join(folder, 'dirty');
  // A map of no mirror yet has everything set.
  const map = await DirtyMap.open(nodeFileSystem, path, { size: DISK_SIZE, trusted: true, invalidate: nothing });
  try {
    const sequences = new RegionSequences(DISK_SIZE, map.regionSize, 0);
    return [
      benchAdmits('primary: admit a write, without a dirty map', new Ledger([], 0, true, nothing)),
      benchAdmits('primary: admit a write, its region is marked', new Ledger([], 0, true, nothing, { map, sequences })),
      benchNote(sequences),
    ];
  } finally {
    await map.close();
    await rm(folder, { recursive: true });
  }
}

async function nothing(): Promise<void> {}

function benchAdmits(name: string, ledger: Ledger): Figure {
  const offsets = scatteredBlocks().map((block) => block * STRIDE);
  return measure(name, offsets.length, () => {
    let admitted = 0;
    for (const offset of offsets) if (ledger.admits(offset, BLOCK_SIZE)) admitted += 1;
    if (admitted !== offsets.length) throw new Error('a region is not marked');
    return admitted;
  });
}

function benchNote(sequences: RegionSequences): Figure {
  const offsets = scatteredBlocks().map((block) => block * STRIDE);
  let sequence = 0;
  return measure('primary: note when a region was last written', offsets.length, () => {
    for (const offset of offsets) {
      sequence += 1;
      sequences.note(offset, BLOCK_SIZE, sequence);
    }
    return sequences.of(0) + sequence;
  });
}
