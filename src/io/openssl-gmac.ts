/**
 * GMAC by the hundred thousand: through the OpenSSL that is part of Node, whose symbols Node exports for addons (its
 * documentation of addons, "Linking to libraries included with Node.js"). One context for all digests, and nothing
 * allocated: node:crypto makes several objects for each digest, which for 4 KiB is two thirds of the time.
 */
import koffi from 'koffi';
import { assert } from '../base/assert.ts';
import { CheckedGmac, GMAC_KEY_SIZE, GMAC_SIZE, type Gmac, NodeGmac } from './gmac.ts';

/** EVP_CTRL_AEAD_GET_TAG of <openssl/evp.h>. */
const GET_TAG = 0x10;

/** By OpenSSL. Buffers are passed as addresses: `CheckedGmac` has looked that what is asked for lies within them. */
export class OpensslGmac extends CheckedGmac {
  readonly #calls = opensslCalls();
  readonly #context: unknown = this.#calls.newContext();
  /** That of the context. */
  readonly #key = Buffer.alloc(GMAC_KEY_SIZE);
  /** Where OpenSSL says how much it has put out, and would put it: nothing, without plaintext. */
  readonly #outSize = new Int32Array(1);
  readonly #out = Buffer.alloc(GMAC_SIZE);
  readonly #ivAddress = addressOf(this.iv);
  readonly #outSizeAddress = addressOf(this.#outSize);
  readonly #outAddress = addressOf(this.#out);
  /** Held while their addresses are in use. */
  #buffers: readonly Uint8Array[] = [];
  #dataAddress = 0;
  #targetAddress = 0;

  /** Throws where OpenSSL is not found, or refuses. */
  constructor() {
    super();
    const { aes128Gcm, init } = this.#calls;
    const done = init(this.#context, aes128Gcm(), null, addressOf(this.#key), this.#ivAddress);
    if (done !== 1) throw new Error('OpenSSL refuses AES-128-GCM');
  }

  protected take(key: Uint8Array, data: Uint8Array, target: Uint8Array): void {
    // Expanded here, and not again for each digest.
    if (this.#key.compare(key) !== 0) {
      assert(this.#calls.init(this.#context, null, null, addressOf(key), this.#ivAddress) === 1, 'OpenSSL takes a key');
      this.#key.set(key);
    }
    this.#buffers = [data, target];
    this.#dataAddress = addressOf(data);
    this.#targetAddress = addressOf(target);
  }

  protected make(from: number, length: number, at: number): void {
    assert(this.#buffers.length === 2, 'digests have begun');
    const { init, update, final, control } = this.#calls;
    const context = this.#context;
    // What fails returns 0 or -1.
    const done =
      init(context, null, null, 0, this.#ivAddress) === 1 &&
      (length === 0 || update(context, 0, this.#outSizeAddress, this.#dataAddress + from, length) === 1) &&
      final(context, this.#outAddress, this.#outSizeAddress) === 1 &&
      control(context, GET_TAG, GMAC_SIZE, this.#targetAddress + at) === 1;
    assert(done, 'OpenSSL makes a digest');
  }
}

interface OpensslCalls {
  readonly newContext: () => unknown;
  readonly aes128Gcm: () => unknown;
  readonly init: (context: unknown, cipher: unknown, engine: null, key: number, iv: number) => number;
  readonly update: (context: unknown, out: number, outSize: number, data: number, size: number) => number;
  readonly final: (context: unknown, out: number, outSize: number) => number;
  readonly control: (context: unknown, type: number, argument: number, target: number) => number;
}

let foundCalls: OpensslCalls | undefined;

/** Throws where this process does not have them. */
function opensslCalls(): OpensslCalls {
  if (foundCalls === undefined) {
    const process = koffi.load(null);
    foundCalls = {
      newContext: process.func('void *EVP_CIPHER_CTX_new()'),
      aes128Gcm: process.func('void *EVP_aes_128_gcm()'),
      init: process.func('int EVP_EncryptInit_ex(void *ctx, void *type, void *engine, uintptr_t key, uintptr_t iv)'),
      update: process.func('int EVP_EncryptUpdate(void *ctx, uintptr_t out, uintptr_t outl, uintptr_t in, int inl)'),
      final: process.func('int EVP_EncryptFinal_ex(void *ctx, uintptr_t out, uintptr_t outl)'),
      control: process.func('int EVP_CIPHER_CTX_ctrl(void *ctx, int type, int arg, uintptr_t ptr)'),
    };
  }
  return foundCalls;
}

function addressOf(buffer: Uint8Array | Int32Array): number {
  return Number(koffi.address(buffer));
}

/** Undefined where OpenSSL is not found so, or does not answer as node:crypto does. */
export function openOpensslGmac(): Gmac | undefined {
  let found: Gmac;
  try {
    found = new OpensslGmac();
  } catch {
    return undefined;
  }
  return sampleOf(found).equals(sampleOf(new NodeGmac())) ? found : undefined;
}

function sampleOf(gmac: Gmac): Buffer {
  const target = Buffer.alloc(GMAC_SIZE);
  gmac.iv.fill(3);
  gmac.begin(Buffer.alloc(GMAC_KEY_SIZE, 1), Buffer.alloc(100, 2), target);
  gmac.digest(1, 99, 0);
  return target;
}
