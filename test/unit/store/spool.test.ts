import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { MIB } from '../../../src/base/units.ts';
import { Spool, type SpoolKept, type SpoolRecord, segmentSizeFor } from '../../../src/store/spool.ts';
import {
  decodeComplete,
  decodeSegmentHeader,
  encodeComplete,
  encodeSegmentHeader,
  getRecord,
  putRecord,
  RECORD_HEADER_SIZE,
  recordSizeAt,
  SEGMENT_HEADER_SIZE,
} from '../../../src/store/spool-format.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { repeatableRandom } from '../../support/memory-world.ts';
import { SlowFiles } from '../../support/slow-files.ts';

const WRITE = 16;
const BARRIER = 18;
const SIZE_MAX = 64 * 1024;
const BUFFER_MAX = 8 * 1024;
const RUN = Buffer.alloc(16, 7);

class Rig {
  readonly clock = new ManualClock();
  readonly files = new SlowFiles();
  readonly seen: SpoolRecord[] = [];
  readonly #random = repeatableRandom();
  spool!: Spool;

  async open(kept?: SpoolKept, sizeMax = SIZE_MAX, bufferMax = BUFFER_MAX): Promise<void> {
    const world = { clock: this.clock, files: this.files, random: this.#random };
    const settings = { directory: 'spool', sizeMax, bufferMax };
    this.spool = await Spool.open(world, settings, kept, (record) => this.seen.push(record));
  }

  append(sequence: number, size: number): boolean {
    const data = Buffer.alloc(size, sequence);
    return this.spool.append(WRITE, 0, sequence, sequence * 1000, size, data, this.clock.nowMs());
  }

  async all(): Promise<SpoolRecord[]> {
    const records: SpoolRecord[] = [];
    while (!this.spool.isEmpty) records.push(...(await this.spool.read(1000)));
    return records;
  }

  segments(): Promise<string[]> {
    return this.files.list('spool').then((names) => names.filter((name) => name.endsWith('.seg')));
  }
}

async function opened(): Promise<Rig> {
  const rig = new Rig();
  await rig.open();
  return rig;
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

function sequences(records: readonly SpoolRecord[]): number[] {
  return records.map(({ sequence }) => sequence);
}

function from(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}

function record(sequence: number, size: number): SpoolRecord {
  const data = Buffer.alloc(size, sequence);
  return { type: WRITE, flags: 0, sequence, offset: sequence * 1000, length: size, data, atMs: 0 };
}

describe('the bytes of a spool', () => {
  it('are as the tables say', () => {
    const header = encodeSegmentHeader(Buffer.alloc(16, 9), 1_000_001, 77);
    expect(header.length).toBe(SEGMENT_HEADER_SIZE);
    expect(header.toString('ascii', 0, 12)).toBe('NBDTWIN\0SPSG');
    expect([header.readUInt16LE(12), header.readBigUInt64LE(32), header.readBigUInt64LE(40)]).toEqual([
      1,
      1_000_001n,
      77n,
    ]);
    const bytes = Buffer.alloc(RECORD_HEADER_SIZE + 3, 0xee);
    putRecord(bytes, 0, WRITE, 1, 5, 4096, 3, Buffer.from('abc'), 12.5);
    expect([bytes[0], bytes[1], bytes.readUInt16LE(2), bytes.readUInt32LE(4)]).toEqual([16, 1, 0, 3]);
    expect([bytes.readBigUInt64LE(8), bytes.readBigUInt64LE(16), bytes.readBigUInt64LE(24)]).toEqual([5n, 4096n, 3n]);
    expect([bytes.readDoubleLE(32), bytes.readUInt32LE(44), bytes.toString('ascii', 48)]).toEqual([12.5, 0, 'abc']);
    expect(getRecord(bytes, 0, recordSizeAt(bytes, 0)!)).toMatchObject({ type: 16, flags: 1, sequence: 5, atMs: 12.5 });
  });

  it('a change of any one is found', () => {
    const id = Buffer.alloc(16, 9);
    const header = encodeSegmentHeader(id, 3, 77);
    expect(decodeSegmentHeader(header, id, 3)).toEqual({ firstSequence: 77, start: SEGMENT_HEADER_SIZE });
    for (let at = 0; at < header.length; at += 1) {
      const spoilt = Buffer.from(header);
      spoilt[at]! ^= 1;
      expect(decodeSegmentHeader(spoilt, id, 3), `header byte ${at}`).toBeUndefined();
    }
    const bytes = Buffer.alloc(RECORD_HEADER_SIZE + 3);
    putRecord(bytes, 0, WRITE, 1, 5, 4096, 3, Buffer.from('abc'), 1);
    for (let at = 0; at < bytes.length; at += 1) {
      const spoilt = Buffer.from(bytes);
      spoilt[at]! ^= 1;
      expect(getRecord(spoilt, 0, bytes.length), `record byte ${at}`).toBeUndefined();
    }
    const complete = { id, run: RUN, base: 1, sequence: 2, first: 3, last: 4, count: 5 };
    const slot = encodeComplete({ ...complete, nowMs: 6, wallMs: 7 });
    expect(decodeComplete(slot)).toEqual({ ...complete, nowMs: 6, wallMs: 7 });
    slot[40]! ^= 1;
    expect(decodeComplete(slot)).toBeUndefined();
  });
});

describe('the spool', () => {
  it('gives back what was appended, in order, wherever it is', async () => {
    const rig = await opened();
    for (let sequence = 1; sequence <= 40; sequence += 1) {
      expect(rig.append(sequence, 600)).toBe(true);
      if (sequence % 4 === 0) await turn();
    }
    expect(rig.files.writes).toBeGreaterThan(5);
    const records = await rig.all();
    expect(sequences(records)).toEqual(from(1, 40));
    for (const { sequence, offset, length, data } of records) {
      expect({ offset, length, data }).toEqual({
        offset: sequence * 1000,
        length: 600,
        data: Buffer.alloc(600, sequence),
      });
    }
    await rig.spool.removed();
    expect((await rig.segments()).length).toBeLessThanOrEqual(1);
    await rig.spool.close();
  });

  it('takes a record larger than a segment, and one larger than its memory when nothing waits', async () => {
    const rig = await opened();
    expect(rig.append(1, 2 * BUFFER_MAX)).toBe(true);
    expect(rig.append(2, 10)).toBe(false);
    await turn();
    await turn();
    expect(rig.append(2, 10)).toBe(true);
    expect(sequences(await rig.all())).toEqual([1, 2]);
    await rig.spool.close();
  });

  it('counts with each record read what it costs who reads, and loses none that is left for later', async () => {
    const rig = await opened();
    for (let sequence = 1; sequence <= 50; sequence += 1) expect(rig.append(sequence, 10)).toBe(true);
    const lots: number[][] = [];
    while (!rig.spool.isEmpty) lots.push(sequences(await rig.spool.read(2000, 128)));
    // A record of 10 bytes takes 58, and counts for 186.
    expect(lots.every(({ length }) => length >= 1 && length <= 10)).toBe(true);
    expect(lots.flat()).toEqual(Array.from({ length: 50 }, (_, index) => index + 1));
    await rig.spool.close();
  });

  it('what is read before it is written never touches the disk', async () => {
    const rig = await opened();
    for (let sequence = 1; sequence <= 400; sequence += 1) {
      expect(rig.append(sequence, 500)).toBe(true);
      expect(sequences(await rig.spool.read(10_000))).toEqual([sequence]);
    }
    expect(rig.files.writes).toBe(0);
    expect(rig.spool.size).toBeLessThanOrEqual(2 * segmentSizeFor(SIZE_MAX));
    await rig.spool.close();
  });

  it('keeps to its limits on disk and in memory whatever the disk does', async () => {
    for (const slow of [false, true]) {
      const rig = await opened();
      rig.files.slow = slow;
      let sequence = 0;
      let refused = 0;
      for (let round = 0; round < 2_000; round += 1) {
        if (rig.append(sequence + 1, 1 + ((round * 37) % 900))) sequence += 1;
        else refused += 1;
        if (round % 3 === 0) await turn();
        if (round % 11 === 0) rig.files.finish(2);
        if (round % 40 === 0 && !slow) await rig.spool.read(2000);
        expect(rig.spool.size).toBeLessThanOrEqual(SIZE_MAX);
        expect(rig.files.sizeOf('.seg')).toBeLessThanOrEqual(SIZE_MAX);
        expect(rig.spool.bufferSize).toBeLessThanOrEqual(BUFFER_MAX);
      }
      expect(refused).toBeGreaterThan(10);
      rig.files.slow = false;
      rig.files.finish();
      const records = sequences(await rig.all());
      expect(records).toEqual(from(records[0]!, sequence));
      // What is held to be filled further is all that is left.
      await turn();
      expect(rig.spool.bufferSize).toBeLessThanOrEqual(BUFFER_MAX / 4);
      rig.spool.clear();
      expect(rig.spool.bufferSize).toBe(0);
      await rig.spool.removed();
      expect(rig.spool.size).toBe(0);
      await rig.spool.close();
    }
  });

  it('a disk that is full takes nothing more in, says why, and loses nothing that it took', async () => {
    const rig = await opened();
    rig.files.sizeMax = 5_000;
    let sequence = 0;
    while (rig.append(sequence + 1, 700)) {
      sequence += 1;
      await turn();
    }
    expect(rig.spool.failure?.code).toBe('no-space');
    expect(rig.append(sequence + 1, 1)).toBe(false);
    expect(sequences(await rig.all())).toEqual(from(1, sequence));
    rig.spool.clear();
    rig.files.sizeMax = Number.POSITIVE_INFINITY;
    await rig.spool.removed();
    expect(rig.append(sequence + 1, 700)).toBe(true);
    await rig.spool.close();
  });

  it('a read that fails takes nothing out', async () => {
    const rig = await opened();
    for (let sequence = 1; sequence <= 10; sequence += 1) {
      rig.append(sequence, 900);
      await turn();
    }
    rig.files.failure = new Failure('io-error', 'EIO: made by the test');
    await expect(rig.spool.read(1000)).rejects.toMatchObject({ code: 'io-error' });
    rig.files.failure = undefined;
    expect(sequences(await rig.all())).toEqual(from(1, 10));
    await rig.spool.close();
  });

  it('what was begun before it is cleared counts no more', async () => {
    const rig = await opened();
    for (let sequence = 1; sequence <= 10; sequence += 1) {
      rig.append(sequence, 900);
      await turn();
    }
    rig.files.slow = true;
    const reading = rig.spool.read(1000);
    rig.append(11, 900);
    await turn();
    rig.spool.clear();
    expect(rig.append(12, 900)).toBe(true);
    rig.files.slow = false;
    rig.files.finish();
    expect(await reading).toEqual([]);
    expect(sequences(await rig.all())).toEqual([12]);
    expect(rig.spool.failure).toBeUndefined();
    await rig.spool.close();
  });

  it('begins empty after an unclean stop, and touches no file that is not its own', async () => {
    const rig = await opened();
    rig.files.put('spool/notes.txt', Buffer.from('mine'));
    rig.files.put('spool/merged-3', Buffer.alloc(10));
    for (let sequence = 1; sequence <= 10; sequence += 1) {
      rig.append(sequence, 900);
      await turn();
    }
    await rig.spool.close();
    expect((await rig.segments()).length).toBeGreaterThan(1);
    await rig.open();
    expect(rig.spool.isEmpty).toBe(true);
    expect(await rig.files.list('spool')).toEqual(['notes.txt']);
    await rig.spool.close();
  });

  it('is for one process', async () => {
    const rig = await opened();
    const other = rig.spool;
    await expect(rig.open()).rejects.toMatchObject({ code: 'directory-busy' });
    await other.close();
    await rig.open();
    await rig.spool.close();
  });
});

describe('a clean stop', () => {
  const kept: SpoolKept = { run: RUN, base: 0, sequence: 33 };

  /** The window holds 1 to 13, the spool 14 to 33, of which it has given out 11 to 13 before. */
  async function stopped(): Promise<Rig> {
    const rig = await opened();
    const given: number[] = [];
    for (let sequence = 11; sequence <= 33; sequence += 1) {
      rig.append(sequence, 300);
      if (sequence === 12 || sequence === 13) given.push(...sequences(await rig.spool.read(10_000)));
      await turn();
    }
    expect(given).toEqual([11, 12, 13]);
    rig.clock.advance(1_000);
    await rig.spool.persist(
      kept,
      from(1, 13).map((sequence) => record(sequence, 300)),
    );
    await rig.spool.close();
    rig.seen.length = 0;
    return rig;
  }

  it('leaves window and spool in order, durable, with their age', async () => {
    const rig = await stopped();
    for (const name of await rig.segments()) {
      const { disk } = rig.files.file(`spool/${name}`);
      expect(disk.durableContent().equals(disk.content()), name).toBe(true);
    }
    rig.clock.advance(5_000);
    await rig.open(kept);
    expect(rig.spool.isRestored).toBe(true);
    expect(sequences(rig.seen)).toEqual(from(1, 33));
    const records = await rig.all();
    expect(sequences(records)).toEqual(from(1, 33));
    expect(records.every(({ sequence, data }) => data?.every((byte) => byte === sequence) === true)).toBe(true);
    // The clock of the test goes on over the restart: from it the age is the same.
    expect(records.map(({ atMs }) => atMs)).toEqual(records.map(() => 0));
    await rig.spool.close();
  });

  it('can follow another without anything read between, and after some was', async () => {
    const rig = await stopped();
    await rig.open(kept);
    const some = await rig.spool.read(1000);
    expect(rig.append(34, 300)).toBe(true);
    await rig.spool.persist({ ...kept, sequence: 34 }, some);
    await rig.spool.close();
    await rig.open({ ...kept, sequence: 34 });
    expect(rig.spool.isRestored).toBe(true);
    expect(sequences(await rig.all())).toEqual(from(1, 34));
    await rig.spool.persist(
      { ...kept, base: 34, sequence: 40 },
      from(35, 40).map((sequence) => record(sequence, 9)),
    );
    await rig.spool.close();
    await rig.open({ ...kept, base: 34, sequence: 40 });
    expect(sequences(await rig.all())).toEqual(from(35, 40));
    expect(rig.append(41, 10)).toBe(true);
    await rig.spool.close();
  });

  it('is of no use with another run, base or sequence', async () => {
    for (const other of [{ run: Buffer.alloc(16, 8) }, { base: 1 }, { sequence: 34 }]) {
      const rig = await stopped();
      await rig.open({ ...kept, ...other });
      expect(rig.spool.isRestored).toBe(false);
      expect(rig.spool.isEmpty).toBe(true);
      expect(await rig.segments()).toEqual([]);
      await rig.spool.close();
    }
  });

  it('is of no use when a segment is missing, cut off, spoilt anywhere, or cannot be read', async () => {
    const names = await (await stopped()).segments();
    expect(names.length).toBeGreaterThan(3);
    for (const name of names) {
      const spoil: ((rig: Rig) => void | Promise<void>)[] = [
        (rig) => rig.files.remove(`spool/${name}`),
        (rig) => rig.files.file(`spool/${name}`).disk.resize(100),
        (rig) =>
          rig.files
            .file(`spool/${name}`)
            .disk.write(Buffer.alloc(1, 0xff), rig.files.reached.get(`spool/${name}`)! - 9),
        (rig) => rig.files.file(`spool/${name}`).disk.write(Buffer.alloc(1, 0xff), 3),
        (rig) => {
          rig.files.failure = new Failure('io-error', 'EIO: made by the test');
          rig.files.failing = ['read'];
        },
        (rig) => rig.files.remove('spool/complete'),
      ];
      for (const [index, how] of spoil.entries()) {
        const rig = await stopped();
        await how(rig);
        await rig.open(kept);
        expect({ name, index, isRestored: rig.spool.isRestored, isEmpty: rig.spool.isEmpty }).toEqual({
          ...{ name, index },
          isRestored: false,
          isEmpty: true,
        });
        expect(await rig.segments()).toEqual([]);
        await rig.spool.close();
        expect(rig.files.openCount).toBe(0);
      }
    }
  });

  it('fails when it cannot be made durable, or has no room, and leaves nothing that counts', async () => {
    const broken = await opened();
    broken.append(1, 300);
    broken.files.failure = new Failure('io-error', 'EIO: made by the test');
    broken.files.failing = ['sync'];
    await expect(broken.spool.persist({ run: RUN, base: 0, sequence: 1 }, [])).rejects.toMatchObject({
      code: 'io-error',
    });
    await broken.spool.close();
    expect(await broken.files.exists('spool/complete')).toBeUndefined();

    const full = await opened();
    full.append(100, 300);
    const head = from(1, 99).map((sequence) => record(sequence, 900));
    await expect(full.spool.persist({ run: RUN, base: 0, sequence: 100 }, head)).rejects.toMatchObject({
      code: 'no-space',
    });
    await full.spool.close();
    expect(await full.files.exists('spool/complete')).toBeUndefined();
  });

  it('keeps barriers and large records', async () => {
    const rig = new Rig();
    await rig.open(undefined, 64 * MIB, 16 * MIB);
    rig.append(1, 3 * MIB);
    rig.spool.append(BARRIER, 0, 1, 0, 0, undefined, 0);
    rig.append(2, 5);
    await rig.spool.persist({ run: RUN, base: 0, sequence: 2 }, []);
    await rig.spool.close();
    await rig.open({ run: RUN, base: 0, sequence: 2 }, 64 * MIB, 16 * MIB);
    const records = await rig.all();
    expect(records.map(({ type, sequence, length }) => [type, sequence, length])).toEqual([
      [WRITE, 1, 3 * MIB],
      [BARRIER, 1, 0],
      [WRITE, 2, 5],
    ]);
    await rig.spool.close();
  });
});
