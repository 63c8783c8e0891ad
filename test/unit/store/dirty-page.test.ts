import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Bitmap } from '../../../src/base/bitmap.ts';
import { decodeHeader, encodeHeader, HEADER_SIZE, headerOffset, PLANES_MAX } from '../../../src/store/dirty-header.ts';
import {
  decodePageHead,
  encodePage,
  isMarkedIn,
  PAGE_REGIONS,
  PAGE_SIZE,
  type PageHead,
} from '../../../src/store/dirty-page.ts';
import { encodeSlot } from '../../../src/store/record-file.ts';

const id = (fill: number): Buffer => Buffer.alloc(16, fill);

function bitmapOf(length: number, regions: readonly number[]): Bitmap {
  const bitmap = new Bitmap(length);
  for (const region of regions) bitmap.set(region);
  return bitmap;
}

function pageOf(head: PageHead, marked: Bitmap): Buffer {
  const page = Buffer.alloc(PAGE_SIZE, 0xee);
  encodePage(page, head, marked);
  return page;
}

const HEAD: PageHead = {
  plane: 3,
  index: 1,
  version: 0x0102030405,
  versionTold: 0x0e0f,
  replicaId: id(0x11),
  cleared: { run: id(0x22), sequence: 0x0a0b, checkpoint: 0x0c0d },
};

describe('a page of the dirty map', () => {
  it('is a sector, laid out as its byte table says', () => {
    const page = pageOf(HEAD, bitmapOf(3 * PAGE_REGIONS, [0, PAGE_REGIONS, PAGE_REGIONS + 9, 2 * PAGE_REGIONS]));
    expect([PAGE_SIZE, PAGE_REGIONS]).toEqual([512, 3456]);
    expect(page.toString('latin1', 0, 4)).toBe('DMAP');
    expect([page.readUInt16LE(4), page.readUInt16LE(6), page.readUInt32LE(8)]).toEqual([1, 3, 1]);
    expect(page.readBigUInt64LE(16)).toBe(0x0102030405n);
    expect(page.subarray(24, 40).equals(id(0x11))).toBe(true);
    expect(page.subarray(40, 56).equals(id(0x22))).toBe(true);
    expect([page.readBigUInt64LE(56), page.readBigUInt64LE(64)]).toEqual([0x0a0bn, 0x0c0dn]);
    expect(page.readBigUInt64LE(72)).toBe(0x0e0fn);
    expect([page[80], page[81]]).toEqual([0b1, 0b10]);
    expect(page.subarray(82).every((byte) => byte === 0)).toBe(true);
  });

  it('holds what was put in, of its own regions and no others', () => {
    const head = fc.record({
      plane: fc.nat(0xffff),
      index: fc.nat(2),
      version: fc.maxSafeNat(),
      versionTold: fc.maxSafeNat(),
      replicaId: fc.uint8Array({ minLength: 16, maxLength: 16 }).map((bytes) => Buffer.from(bytes)),
      cleared: fc.option(
        fc.record({ run: fc.constantFrom(id(1), id(255)), sequence: fc.maxSafeNat(), checkpoint: fc.maxSafeNat() }),
        { nil: undefined },
      ),
    });
    const length = 2 * PAGE_REGIONS + 77;
    fc.assert(
      fc.property(head, fc.uniqueArray(fc.nat(length - 1), { maxLength: 60 }), (given, regions) => {
        const page = pageOf(given, bitmapOf(length, regions));
        expect(decodePageHead(page)).toEqual(given);
        const first = given.index * PAGE_REGIONS;
        const set = Array.from({ length: PAGE_REGIONS }, (_, bit) => bit).filter((bit) => isMarkedIn(page, bit));
        const own = regions.filter((region) => region >= first && region < first + PAGE_REGIONS);
        expect(set).toEqual(own.map((region) => region - first).sort((a, b) => a - b));
      }),
      { numRuns: 60 },
    );
  });

  it('with any one bit changed is not taken for whole', () => {
    const page = pageOf(HEAD, bitmapOf(2 * PAGE_REGIONS, [PAGE_REGIONS + 1]));
    for (let bit = 0; bit < PAGE_SIZE * 8; bit += 1) {
      page[bit >>> 3]! ^= 1 << (bit & 7);
      expect(decodePageHead(page), `bit ${bit}`).toBeUndefined();
      page[bit >>> 3]! ^= 1 << (bit & 7);
    }
    expect(decodePageHead(page)).toBeDefined();
  });

  it('cut short, empty or full of zeroes is not taken for whole', () => {
    const page = pageOf(HEAD, bitmapOf(2 * PAGE_REGIONS, []));
    expect(decodePageHead(page.subarray(0, PAGE_SIZE - 1))).toBeUndefined();
    expect(decodePageHead(Buffer.alloc(0))).toBeUndefined();
    expect(decodePageHead(Buffer.alloc(PAGE_SIZE))).toBeUndefined();
  });
});

describe('the header of the dirty map', () => {
  const header = { size: 2 ** 40, regionSize: 2 ** 20, version: 77, versionTold: 66, replicaIds: [id(1), id(2)] };
  const twoSlots = (...counters: number[]): Buffer => {
    const bytes = Buffer.alloc(HEADER_SIZE);
    for (const counter of counters)
      encodeHeader({ ...header, version: counter }, counter).copy(bytes, headerOffset(counter));
    return bytes;
  };

  it('is laid out as its byte table says', () => {
    const content = encodeHeader(header, 5).subarray(32);
    expect(content.readBigUInt64LE(0)).toBe(2n ** 40n);
    expect(content.readBigUInt64LE(8)).toBe(2n ** 20n);
    expect(content.readBigUInt64LE(16)).toBe(77n);
    expect(content.readUInt16LE(24)).toBe(2);
    expect(content.readBigUInt64LE(32)).toBe(66n);
    expect(content.subarray(40, 72).equals(Buffer.concat([id(1), id(2)]))).toBe(true);
  });

  it('is the newer of two slots, and the older one where that is not whole', () => {
    const bytes = twoSlots(6, 7);
    expect(decodeHeader(bytes)).toEqual({ counter: 7, header: { ...header, version: 7 } });
    bytes[headerOffset(7) + 40]! ^= 1;
    expect(decodeHeader(bytes)).toEqual({ counter: 6, header: { ...header, version: 6 } });
    bytes[headerOffset(6) + 40]! ^= 1;
    expect(decodeHeader(bytes)).toBeUndefined();
  });

  it('of another kind, version or length is none', () => {
    const bytes = Buffer.alloc(HEADER_SIZE);
    encodeSlot({ letters: 'PRIM', version: 1 }, 2, Buffer.alloc(64)).copy(bytes, 0);
    expect(decodeHeader(bytes)).toBeUndefined();
    encodeSlot({ letters: 'DMAP', version: 9 }, 2, Buffer.alloc(64)).copy(bytes, 0);
    expect(decodeHeader(bytes)).toBeUndefined();
    for (const length of [0, 31, 33, 48]) {
      encodeSlot({ letters: 'DMAP', version: 1 }, 2, Buffer.alloc(length)).copy(bytes, 0);
      expect(decodeHeader(bytes), `${length} bytes`).toBeUndefined();
    }
    const many = { ...header, replicaIds: Array.from({ length: PLANES_MAX + 1 }, () => id(1)) };
    expect(decodeHeader(encodeHeader(many, 2))).toBeUndefined();
  });
});
