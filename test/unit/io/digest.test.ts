import { createCipheriv, randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { KIB, MIB } from '../../../src/base/units.ts';
import { digestOf, isZero } from '../../../src/io/digest.ts';

const KEY = Buffer.from('000102030405060708090a0b0c0d0e0f', 'hex');

describe('a digest', () => {
  it('is the GMAC of AES-128 with level and index in the IV', () => {
    const data = Buffer.from('some data');
    const offset = 2 ** 52 + MIB;
    const iv = Buffer.from('140000000000000100000001', 'hex');
    const cipher = createCipheriv('aes-128-gcm', KEY, iv);
    cipher.setAAD(data);
    cipher.final();
    expect(digestOf(data, KEY, offset, MIB).toString('hex')).toBe(cipher.getAuthTag().toString('hex'));
  });

  it('keeps its golden bytes: both ends of the link must agree', () => {
    const block = Buffer.alloc(4 * KIB, 0x5a);
    expect(digestOf(block, KEY, 8 * KIB, 4 * KIB).toString('hex')).toBe('5ff7e3814d4618a76b7a561b1c000bb0');
    expect(digestOf(block, KEY, 8 * KIB).toString('hex')).toBe('9102d172d34174ed69fc34bcaa19472b');
    expect(digestOf(Buffer.alloc(0), KEY, 0).toString('hex')).toBe('7346139595c0b41e497bbde365f42d0a');
  });

  it('changes with key, place, level, length and every bit of the data', () => {
    const data = randomBytes(4 * KIB);
    const longer = Buffer.concat([data, Buffer.alloc(1)]);
    const digests = [
      digestOf(data, KEY, 64 * KIB, 4 * KIB),
      digestOf(data, randomBytes(16), 64 * KIB, 4 * KIB),
      digestOf(data, KEY, 68 * KIB, 4 * KIB),
      digestOf(data, KEY, 64 * KIB, 64 * KIB),
      digestOf(data, KEY, 64 * KIB),
      digestOf(longer, KEY, 64 * KIB, 64 * KIB),
      digestOf(data.subarray(0, -1), KEY, 64 * KIB, 4 * KIB),
    ];
    for (let bit = 0; bit < 8; bit += 1) {
      const changed = Buffer.from(data);
      const at = (bit * 509) % changed.length;
      changed[at] = changed[at]! ^ (1 << bit);
      digests.push(digestOf(changed, KEY, 64 * KIB, 4 * KIB));
    }
    expect(new Set(digests.map((digest) => digest.toString('hex'))).size).toBe(digests.length);
  });

  it('tells zeroes of different lengths apart', () => {
    const digests = [0, 1, 15, 16, 17, 4096].map((size) => digestOf(Buffer.alloc(size), KEY, 0).toString('hex'));
    expect(new Set(digests).size).toBe(digests.length);
  });

  it('does not fit a place that is no unit', () => {
    expect(() => digestOf(Buffer.alloc(16), KEY, 100, 4 * KIB)).toThrow('multiple');
    expect(() => digestOf(Buffer.alloc(16), KEY, 0, 3000)).toThrow('power of two');
    expect(() => digestOf(Buffer.alloc(16), Buffer.alloc(15), 0)).toThrow('key');
  });
});

describe('the zero check', () => {
  it('finds one byte that is not zero, wherever it stands', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 200_000 }),
        fc.nat(),
        fc.integer({ min: 1, max: 255 }),
        (size, seed, value) => {
          const data = Buffer.alloc(size);
          expect(isZero(data)).toBe(true);
          data[seed % size] = value;
          expect(isZero(data)).toBe(false);
        },
      ),
    );
  });

  it('knows the ends of its steps', () => {
    for (const size of [1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB]) {
      for (const at of [0, size - 1, Math.min(size - 1, 64 * KIB), Math.min(size - 1, 64 * KIB - 1)]) {
        const data = new Uint8Array(size);
        data[at] = 1;
        expect(isZero(data)).toBe(false);
      }
      expect(isZero(new Uint8Array(size))).toBe(true);
    }
    expect(isZero(new Uint8Array(0))).toBe(true);
  });
});
