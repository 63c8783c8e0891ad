import { createCipheriv } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GMAC_IV_SIZE, GMAC_KEY_SIZE, GMAC_SIZE, NodeGmac } from '../../../src/io/gmac.ts';
import { OpensslGmac, openOpensslGmac } from '../../../src/io/openssl-gmac.ts';

function byNode(key: Uint8Array, iv: Uint8Array, data: Uint8Array): string {
  const cipher = createCipheriv('aes-128-gcm', key, iv);
  cipher.setAAD(data);
  cipher.final();
  return cipher.getAuthTag().toString('hex');
}

const bytes = (size: number) => fc.uint8Array({ minLength: size, maxLength: size });

describe('GMAC', () => {
  it('is made by the OpenSSL of this process, which answers as expected', () => {
    expect(openOpensslGmac()).toBeInstanceOf(OpensslGmac);
  });

  for (const make of [OpensslGmac, NodeGmac]) {
    it(`of any pieces under changing keys is what a cipher gives (${make.name})`, () => {
      const tested = new make();
      fc.assert(
        fc.property(
          fc.array(
            fc.record({
              key: fc.oneof(bytes(GMAC_KEY_SIZE), fc.constant(new Uint8Array(GMAC_KEY_SIZE))),
              data: fc.uint8Array({ maxLength: 300 }),
              cuts: fc.array(fc.record({ iv: bytes(GMAC_IV_SIZE), from: fc.nat(300), length: fc.nat(300) }), {
                maxLength: 4,
              }),
            }),
            { maxLength: 4 },
          ),
          (rounds) => {
            for (const { key, data, cuts } of rounds) {
              const target = Buffer.alloc(GMAC_SIZE * cuts.length + 1, 0xee);
              tested.begin(key, data, target);
              for (const [index, { iv, from, length }] of cuts.entries()) {
                const start = Math.min(from, data.length);
                const size = Math.min(length, data.length - start);
                tested.iv.set(iv);
                tested.digest(start, size, GMAC_SIZE * index);
                const made = target.subarray(GMAC_SIZE * index, GMAC_SIZE * (index + 1)).toString('hex');
                expect(made).toBe(byNode(key, iv, data.subarray(start, start + size)));
              }
              expect(target.at(-1)).toBe(0xee);
            }
          },
        ),
      );
    });

    it(`reads and writes nothing beyond the buffers (${make.name})`, () => {
      const tested = new make();
      expect(() => tested.digest(0, 1, 0)).toThrow('within the data');
      expect(() => tested.begin(Buffer.alloc(15), Buffer.alloc(16), Buffer.alloc(16))).toThrow('key');
      tested.begin(Buffer.alloc(GMAC_KEY_SIZE), Buffer.alloc(16), Buffer.alloc(GMAC_SIZE));
      expect(() => tested.digest(0, 17, 0)).toThrow('within the data');
      expect(() => tested.digest(-1, 4, 0)).toThrow('within the data');
      expect(() => tested.digest(0, 16, 1)).toThrow('within its target');
      tested.digest(0, 16, 0);
    });
  }
});
