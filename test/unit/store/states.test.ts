import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { sameIdentity, sameInode } from '../../../src/store/identity.ts';
import { MIRROR_STATE, type MirrorState } from '../../../src/store/mirror-state.ts';
import {
  decodePrimaryState,
  encodePrimaryState,
  forgetCleanStop,
  INODE_TEXT_SIZE_MAX,
  PRIMARY_STATE,
  type PrimaryState,
  runsUpTo,
} from '../../../src/store/primary-state.ts';
import { SLOT_HEADER_SIZE, SLOT_SIZE } from '../../../src/store/record-file.ts';
import { createStateFile, openStateFile, readStateFile } from '../../../src/store/state-file.ts';
import { MemoryFiles } from '../../support/memory-files.ts';

const corrupt = expect.objectContaining({ code: 'state-corrupt' });

const id = fc.uint8Array({ minLength: 16, maxLength: 16 }).map((bytes) => Buffer.from(bytes));
const count = fc.maxSafeNat();
const identity = fc.record({
  size: count,
  modifiedNs: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  inode: fc.string({ unit: fc.constantFrom('0', '7', ':', 'f'), maxLength: INODE_TEXT_SIZE_MAX }),
});
const primaryState: fc.Arbitrary<PrimaryState> = fc.record({
  volumeId: id,
  generation: id,
  run: id,
  earlierRuns: fc.array(id, { maxLength: 128 }),
  sequence: count,
  checkpoint: count,
  clean: fc.boolean(),
  mapValid: fc.boolean(),
  inOrder: fc.boolean(),
  spoolBase: count,
  clearedCheckpoint: count,
  mapVersionTold: count,
  identity,
});
const mirrorState: fc.Arbitrary<MirrorState> = fc.record({
  replicaId: id,
  volumeId: id,
  generation: id,
  run: id,
  parentRun: id,
  parentSequence: count,
  recorded: count,
  checkpoint: count,
  consistent: fc.boolean(),
  clean: fc.boolean(),
  seeded: fc.boolean(),
  committing: fc.boolean(),
  recordedAtMs: count,
  identity,
  mapVersion: count,
  copiedId: id,
});

function filled(byte: number): Buffer {
  return Buffer.alloc(16, byte);
}

const ID = { size: 0x10203040, modifiedNs: 0x1122334455667788n, inode: '8:42' };

describe('the state of a primary', () => {
  const state: PrimaryState = {
    volumeId: filled(1),
    generation: filled(2),
    run: filled(3),
    earlierRuns: [filled(4), filled(5)],
    sequence: 0x010203,
    checkpoint: 5,
    clean: true,
    mapValid: true,
    inOrder: false,
    spoolBase: 0x0709,
    clearedCheckpoint: 4,
    mapVersionTold: 0x0a0b,
    identity: ID,
  };

  it('has these very bytes', () => {
    expect(encodePrimaryState(state).toString('hex')).toBe(
      '01'.repeat(16) +
        '02'.repeat(16) +
        '03'.repeat(16) +
        '0302010000000000' +
        '0500000000000000' +
        '03000000' +
        '00000000' +
        '4030201000000000' +
        '8877665544332211' +
        '0907000000000000' +
        '0400000000000000' +
        '0b0a000000000000' +
        '0400' +
        '0200' +
        '383a3432' +
        '04'.repeat(16) +
        '05'.repeat(16),
    );
    expect(encodePrimaryState(state).length).toBe(152);
    // A bit for each of: clean, the map is valid, in order.
    for (const [flags, bits] of [
      [{ clean: true, mapValid: false, inOrder: false }, 1],
      [{ clean: false, mapValid: true, inOrder: false }, 2],
      [{ clean: false, mapValid: false, inOrder: true }, 4],
    ] as const) {
      expect(encodePrimaryState({ ...state, ...flags }).readUInt32LE(64)).toBe(bits);
    }
  });

  it('comes back from its bytes', () => {
    fc.assert(
      fc.property(primaryState, (any) => {
        expect(decodePrimaryState(encodePrimaryState(any))).toEqual(any);
      }),
    );
  });

  it('of any other length is corrupt', () => {
    const bytes = encodePrimaryState(state);
    for (let length = 0; length < bytes.length; length += 1) {
      expect(() => decodePrimaryState(bytes.subarray(0, length))).toThrow(corrupt);
    }
    expect(() => decodePrimaryState(Buffer.concat([bytes, Buffer.alloc(1)]))).toThrow(corrupt);
  });

  it('with a number above 2^53-1, too long an inode or too many runs is corrupt', () => {
    for (const offset of [48, 56, 72, 88, 96, 104]) {
      const bytes = encodePrimaryState(state);
      bytes.writeBigUInt64LE(2n ** 53n, offset);
      expect(() => decodePrimaryState(bytes)).toThrow(corrupt);
    }
    const bytes = Buffer.concat([encodePrimaryState(state), Buffer.alloc(61)]);
    bytes.writeUInt16LE(65, 112);
    expect(() => decodePrimaryState(bytes)).toThrow(corrupt);
    const many = Buffer.concat([encodePrimaryState(state), Buffer.alloc(127 * 16)]);
    many.writeUInt16LE(129, 114);
    expect(() => decodePrimaryState(many)).toThrow(corrupt);
  });

  it('fits its slot with all that it may hold, and tells a later start the newest runs', () => {
    const full = {
      ...state,
      earlierRuns: Array.from({ length: 128 }, (_, index) => filled(index)),
      identity: { ...ID, inode: '7'.repeat(INODE_TEXT_SIZE_MAX) },
    };
    const bytes = encodePrimaryState(full);
    expect(bytes.length).toBeLessThanOrEqual(SLOT_SIZE - SLOT_HEADER_SIZE);
    expect(decodePrimaryState(bytes)).toEqual(full);
    expect(runsUpTo(full)).toEqual([full.run, ...full.earlierRuns.slice(0, 127)]);
    expect(runsUpTo(state)).toEqual([filled(3), filled(4), filled(5)]);
  });

  it('of the version before is not taken for one of this', async () => {
    const files = new MemoryFiles();
    const former = { ...PRIMARY_STATE, kind: { ...PRIMARY_STATE.kind, version: 1 } };
    await (await createStateFile(files, former, '/primary', state)).close();
    await expect(openStateFile(files, PRIMARY_STATE, '/primary')).rejects.toEqual(corrupt);
    expect(files.openCount).toBe(0);
  });

  it('is no longer clean, durably, once serving without replication begins', async () => {
    const files = new MemoryFiles();
    await forgetCleanStop(files, '/disk.twin');
    expect(await files.exists('/disk.twin/primary')).toBeUndefined();
    await (await createStateFile(files, PRIMARY_STATE, '/disk.twin/primary', state)).close();
    await forgetCleanStop(files, '/disk.twin');
    const { disk } = files.file('/disk.twin/primary');
    expect(disk.durableContent().equals(disk.content())).toBe(true);
    const file = await openStateFile(files, PRIMARY_STATE, '/disk.twin/primary');
    // What is written now is not marked either.
    expect(file!.state).toEqual({ ...state, clean: false, mapValid: false });
    await file!.close();
    expect(files.openCount).toBe(0);
  });

  it('that was not clean, but whose map was valid, says that it is not, too', async () => {
    const files = new MemoryFiles();
    await (await createStateFile(files, PRIMARY_STATE, '/disk.twin/primary', { ...state, clean: false })).close();
    await forgetCleanStop(files, '/disk.twin');
    expect(await readStateFile(files, PRIMARY_STATE, '/disk.twin/primary')).toMatchObject({
      clean: false,
      mapValid: false,
    });
  });
});

describe('the state of a mirror', () => {
  const state: MirrorState = {
    replicaId: filled(1),
    volumeId: filled(2),
    generation: filled(3),
    run: filled(4),
    parentRun: filled(5),
    parentSequence: 0x0e0f,
    recorded: 0x0a0b,
    checkpoint: 6,
    consistent: true,
    clean: false,
    seeded: true,
    committing: true,
    recordedAtMs: 0x0c0d,
    identity: ID,
    mapVersion: 0x1718,
    copiedId: filled(6),
  };

  it('has these very bytes', () => {
    expect(MIRROR_STATE.encode(state).toString('hex')).toBe(
      '01'.repeat(16) +
        '02'.repeat(16) +
        '03'.repeat(16) +
        '04'.repeat(16) +
        '0b0a000000000000' +
        '0600000000000000' +
        '05'.repeat(16) +
        '0f0e000000000000' +
        '0d000000' +
        '00000000' +
        '0d0c000000000000' +
        '4030201000000000' +
        '8877665544332211' +
        '1817000000000000' +
        '06'.repeat(16) +
        '0400' +
        '383a3432',
    );
    expect(MIRROR_STATE.encode(state).length).toBe(166);
  });

  it('comes back from its bytes', () => {
    fc.assert(
      fc.property(mirrorState, (any) => {
        expect(MIRROR_STATE.decode(MIRROR_STATE.encode(any))).toEqual(any);
      }),
    );
  });

  it('of any other length, or with a number above 2^53-1, is corrupt', () => {
    const bytes = MIRROR_STATE.encode(state);
    for (let length = 0; length < bytes.length; length += 1) {
      expect(() => MIRROR_STATE.decode(bytes.subarray(0, length))).toThrow(corrupt);
    }
    expect(() => MIRROR_STATE.decode(Buffer.concat([bytes, Buffer.alloc(1)]))).toThrow(corrupt);
    for (const offset of [64, 72, 96, 112, 120, 136]) {
      const spoiled = Buffer.from(bytes);
      spoiled.writeBigUInt64LE(2n ** 53n, offset);
      expect(() => MIRROR_STATE.decode(spoiled)).toThrow(corrupt);
    }
  });
});

describe('a state file', () => {
  it('can be read without being opened for writing, and is not made by that', async () => {
    const files = new MemoryFiles();
    expect(await readStateFile(files, MIRROR_STATE, '/mirror')).toBeUndefined();
    const state = MIRROR_STATE.decode(MIRROR_STATE.encode(fc.sample(mirrorState, { numRuns: 1, seed: 1 })[0]!));
    const file = await createStateFile(files, MIRROR_STATE, '/mirror', state);
    await file.write({ ...state, checkpoint: 77 });
    await file.close();
    expect(await readStateFile(files, MIRROR_STATE, '/mirror')).toEqual({ ...state, checkpoint: 77 });
    expect(files.openCount).toBe(0);
    files.put('/mirror', Buffer.alloc(8192));
    await expect(readStateFile(files, MIRROR_STATE, '/mirror')).rejects.toEqual(corrupt);
  });

  it('keeps its former state when a write fails', async () => {
    const files = new MemoryFiles();
    const state = MIRROR_STATE.decode(MIRROR_STATE.encode(fc.sample(mirrorState, { numRuns: 1, seed: 1 })[0]!));
    const file = await createStateFile(files, MIRROR_STATE, '/mirror', state);
    files.file('/mirror').disk.hook = (call) => {
      if (call === 'sync') throw new Error('injected');
    };
    await expect(file.write({ ...state, checkpoint: 77 })).rejects.toThrow('injected');
    expect(file.state).toEqual(state);
  });
});

describe('the identity of a disk', () => {
  it('names the same file whatever number its device has, and another file by its inode', () => {
    expect(sameInode('8:42', '253:42')).toBe(true);
    expect(sameInode('8:42', '8:43')).toBe(false);
    expect(sameInode('8:42', '')).toBe(false);
  });

  it('is the same only when inode, size and time of modification are', () => {
    expect(sameIdentity(ID, { ...ID })).toBe(true);
    expect(sameIdentity(ID, { ...ID, inode: '8:43' })).toBe(false);
    expect(sameIdentity(ID, { ...ID, size: 1 })).toBe(false);
    expect(sameIdentity(ID, { ...ID, modifiedNs: 1n })).toBe(false);
  });
});
