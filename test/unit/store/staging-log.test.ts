import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import type { OverlayRange } from '../../../src/store/overlay.ts';
import {
  BATCH_HEADER_SIZE,
  batchSize,
  COMMIT_SIZE,
  type CommitRecord,
  decodeLog,
  ENTRY_SIZE,
  encodeBatch,
  encodeCommit,
  encodeHeader,
  LOG_HEADER_SIZE,
  type LogHeader,
} from '../../../src/store/staging-log.ts';

const id = fc.uint8Array({ minLength: 16, maxLength: 16 }).map((bytes) => Buffer.from(bytes));
const count = fc.maxSafeNat();
const header: fc.Arbitrary<LogHeader> = fc.record({
  id,
  base: fc.record({ run: id, sequence: count }),
  size: fc.constant(Number.MAX_SAFE_INTEGER),
});
const range: fc.Arbitrary<OverlayRange> = fc
  .record({ offset: count, end: count, zero: fc.boolean() })
  .filter(({ offset, end }) => end > offset)
  .map(({ offset, end, zero }) => ({ offset, length: end - offset, zero }));
const batch = fc.record({
  position: fc.record({ sequence: count, checkpoint: count }),
  ranges: fc.array(range, { maxLength: 5 }),
});
const record: fc.Arbitrary<CommitRecord> = fc.record({
  generation: id,
  run: id,
  parentRun: id,
  parentSequence: count,
  sequence: count,
  checkpoint: count,
  mapVersion: count,
  committedAtMs: count,
});

function openLog(
  head: LogHeader,
  batches: readonly { position: CommitRecord | object; ranges: OverlayRange[] }[],
): Buffer {
  const start = encodeHeader(head, 'STGO');
  const parts = [start.bytes];
  let { crc } = start;
  for (const { position, ranges } of batches) {
    const next = encodeBatch(position as CommitRecord, ranges.length, ranges, crc);
    parts.push(next.bytes);
    crc = next.crc;
  }
  return Buffer.concat(parts);
}

function codeOf(bytes: Buffer): string {
  try {
    decodeLog(bytes, 'log');
  } catch (error) {
    if (error instanceof Failure) return error.code;
    throw error;
  }
  return 'decoded';
}

const HEAD: LogHeader = { id: Buffer.alloc(16, 1), base: { run: Buffer.alloc(16, 2), sequence: 3 }, size: 0x10_0000 };

describe('the log of a staged run', () => {
  it('has these sizes', () => {
    expect(encodeHeader(HEAD, 'STGO').bytes).toHaveLength(72);
    expect([LOG_HEADER_SIZE, BATCH_HEADER_SIZE, ENTRY_SIZE, COMMIT_SIZE]).toEqual([72, 32, 16, 96]);
    expect(batchSize(3)).toBe(32 + 48);
  });

  it('has these very bytes', () => {
    const log = openLog({ ...HEAD, size: 0x1122334455 }, [
      { position: { sequence: 0x0102030405, checkpoint: 6 }, ranges: [{ offset: 0x1000, length: 0x200, zero: true }] },
    ]);
    const commit = encodeCommit(
      {
        generation: Buffer.alloc(16, 0xa1),
        run: Buffer.alloc(16, 0xa2),
        parentRun: Buffer.alloc(16, 0xa3),
        parentSequence: 4,
        sequence: 5,
        checkpoint: 6,
        mapVersion: 7,
        committedAtMs: 8,
      },
      0,
    );
    expect(Buffer.concat([log, commit]).toString('hex')).toBe(
      '4e42445457494e00' +
        '5354474f' +
        '01000000' +
        '01'.repeat(16) +
        '02'.repeat(16) +
        '0300000000000000' +
        '5544332211000000' +
        log.toString('hex', 64, 68) +
        '00000000' +
        '42544348' +
        log.toString('hex', 76, 80) +
        '0504030201000000' +
        '0600000000000000' +
        '0100000000000000' +
        '0010000000000000' +
        '0002000000000080' +
        '434d4954' +
        commit.toString('hex', 4, 8) +
        'a1'.repeat(16) +
        'a2'.repeat(16) +
        'a3'.repeat(16) +
        '0400000000000000' +
        '0500000000000000' +
        '0600000000000000' +
        '0700000000000000' +
        '0800000000000000',
    );
  });

  it('is read as it was written', () => {
    fc.assert(
      fc.property(header, fc.array(batch, { maxLength: 4 }), (head, batches) => {
        const log = openLog(head, batches);
        const decoded = decodeLog(log, 'log');
        expect(decoded).toEqual({ ...head, batches, committed: undefined, end: log.length, crc: decoded.crc });
        const next = encodeBatch({ sequence: 1, checkpoint: 2 }, 0, [], decoded.crc);
        expect(decodeLog(Buffer.concat([log, next.bytes]), 'log').batches).toHaveLength(batches.length + 1);
      }),
    );
  });

  it('is read as it was committed', () => {
    fc.assert(
      fc.property(header, batch, record, (head, { position, ranges }, commit) => {
        const start = encodeHeader(head, 'STGC');
        const whole = encodeBatch(position, ranges.length, ranges, start.crc);
        const log = Buffer.concat([start.bytes, whole.bytes, encodeCommit(commit, whole.crc)]);
        const decoded = decodeLog(log, 'log');
        expect(decoded.committed).toEqual(commit);
        expect(decoded.batches).toEqual([{ position, ranges }]);
        expect(codeOf(Buffer.concat([start.bytes, whole.bytes]))).toBe('state-corrupt');
        expect(codeOf(Buffer.concat([start.bytes, encodeCommit(commit, start.crc)]))).toBe('state-corrupt');
      }),
    );
  });

  it('ends before what a crash has torn, whatever stands there instead', () => {
    fc.assert(
      fc.property(
        fc.array(batch, { minLength: 1, maxLength: 4 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        fc.uint8Array({ maxLength: 100 }),
        (batches, share, rest) => {
          const head = { ...HEAD, size: Number.MAX_SAFE_INTEGER };
          const log = openLog(head, batches);
          const end = LOG_HEADER_SIZE + Math.floor((log.length - LOG_HEADER_SIZE) * share);
          const whole = batches.filter((_, index) => openLog(head, batches.slice(0, index + 1)).length <= end);
          const torn = Buffer.concat([log.subarray(0, end), rest]);
          const found = decodeLog(torn, 'log').batches;
          // What stands there may be just what is missing.
          expect(found.slice(0, whole.length)).toEqual(whole);
          expect(
            found.length === whole.length || torn.subarray(0, log.length).equals(log.subarray(0, torn.length)),
          ).toBe(true);
        },
      ),
    );
  });

  it('does not count a batch of another log, nor one in another place', () => {
    const one = { position: { sequence: 1, checkpoint: 0 }, ranges: [{ offset: 0, length: 512, zero: false }] };
    const two = { position: { sequence: 2, checkpoint: 0 }, ranges: [{ offset: 512, length: 512, zero: false }] };
    const log = openLog(HEAD, [one, two]);
    const first = log.subarray(LOG_HEADER_SIZE, LOG_HEADER_SIZE + batchSize(1));
    const second = log.subarray(LOG_HEADER_SIZE + batchSize(1));
    const head = log.subarray(0, LOG_HEADER_SIZE);
    expect(decodeLog(Buffer.concat([head, second]), 'log').batches).toHaveLength(0);
    expect(decodeLog(Buffer.concat([head, first, first]), 'log').batches).toHaveLength(1);
    const other = encodeHeader({ ...HEAD, id: Buffer.alloc(16, 9) }, 'STGO').bytes;
    expect(decodeLog(Buffer.concat([other, first]), 'log').batches).toHaveLength(0);
  });

  it('refuses what is whole and cannot be: other kinds and versions, ranges beyond the disk', () => {
    const reseal = (change: (bytes: Buffer) => void): Buffer => {
      const { bytes } = encodeHeader(HEAD, 'STGO');
      change(bytes);
      bytes.writeUInt32LE(0, 64);
      bytes.writeUInt32LE(crc32(bytes), 64);
      return bytes;
    };
    expect(codeOf(reseal(() => undefined))).toBe('decoded');
    expect(codeOf(encodeHeader(HEAD, 'XXXX' as 'STGO').bytes)).toBe('state-corrupt');
    expect(codeOf(reseal((bytes) => bytes.writeUInt16LE(2, 12)))).toBe('state-corrupt');
    expect(codeOf(Buffer.alloc(0))).toBe('state-corrupt');
    expect(codeOf(Buffer.alloc(4096))).toBe('state-corrupt');
    const position = { sequence: 1, checkpoint: 1 };
    for (const range of [
      { offset: HEAD.size - 1, length: 2, zero: false },
      { offset: 0, length: HEAD.size + 1, zero: true },
      { offset: 512, length: 0, zero: false },
    ]) {
      expect(codeOf(openLog(HEAD, [{ position, ranges: [range] }]))).toBe('state-corrupt');
    }
  });
});
