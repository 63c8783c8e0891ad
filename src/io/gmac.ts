/** GMAC (NIST SP 800-38D: AES-128-GCM with associated data only), by node:crypto, or as openssl-gmac.ts does it. */
import { createCipheriv } from 'node:crypto';
import { assert } from '../base/assert.ts';

export const GMAC_KEY_SIZE = 16;
export const GMAC_IV_SIZE = 12;
export const GMAC_SIZE = 16;

/** Makes one digest at a time. */
export interface Gmac {
  /** Written by the caller before each digest. */
  readonly iv: Buffer;
  /**
   * The digests to come are of pieces of `data`, under this key, and go into `target`. Buffers are held until the next
   * `begin`, and must not be transferred before the last digest of theirs.
   */
  begin(key: Uint8Array, data: Uint8Array, target: Uint8Array): void;
  /** Of `length` bytes of the data from `from` on; its GMAC_SIZE bytes go to `at` of the target. */
  digest(from: number, length: number, at: number): void;
}

export abstract class CheckedGmac implements Gmac {
  readonly iv = Buffer.alloc(GMAC_IV_SIZE);
  #dataSize = 0;
  #targetSize = 0;

  begin(key: Uint8Array, data: Uint8Array, target: Uint8Array): void {
    assert(key.length === GMAC_KEY_SIZE, 'key of a digest');
    this.take(key, data, target);
    this.#dataSize = data.length;
    this.#targetSize = target.length;
  }

  digest(from: number, length: number, at: number): void {
    assert(from >= 0 && length >= 0 && from + length <= this.#dataSize, 'what is digested lies within the data');
    assert(at >= 0 && at + GMAC_SIZE <= this.#targetSize, 'a digest lies within its target');
    this.make(from, length, at);
  }

  protected abstract take(key: Uint8Array, data: Uint8Array, target: Uint8Array): void;
  protected abstract make(from: number, length: number, at: number): void;
}

/** By node:crypto. */
export class NodeGmac extends CheckedGmac {
  #key: Uint8Array = new Uint8Array(GMAC_KEY_SIZE);
  #data: Uint8Array = new Uint8Array();
  #target: Uint8Array = new Uint8Array();

  protected take(key: Uint8Array, data: Uint8Array, target: Uint8Array): void {
    this.#key = key;
    this.#data = data;
    this.#target = target;
  }

  protected make(from: number, length: number, at: number): void {
    const cipher = createCipheriv('aes-128-gcm', this.#key, this.iv);
    cipher.setAAD(this.#data.subarray(from, from + length));
    cipher.final();
    this.#target.set(cipher.getAuthTag(), at);
  }
}
