/**
 * The text of a secret file.
 *
 * Either lines as GnuTLS's psktool writes them, `identity:hexkey`, which nbdkit and qemu use too; or one bare secret,
 * a line without a colon. Empty lines and lines that start with `#` are skipped; white space around a line is dropped.
 *
 * A bare secret is stretched with scrypt, since whoever records one handshake of a link can try secrets at home:
 * N 2^17, r 8, p 1 (128 MiB, some 0.4 s), salt `nbdtwin secret 1`, 32 bytes, of its UTF-8. Both sides must agree, so
 * the parameters are part of the protocol.
 */
import { scrypt } from 'node:crypto';
import { assert } from '../base/assert.ts';
import { Failure } from '../base/failure.ts';
import { KIB, MIB } from '../base/units.ts';
import { DEFAULT_IDENTITY } from './identity.ts';
import type { PresharedKey } from './tls.ts';

/** Bytes of a secret file. */
export const SECRET_FILE_SIZE_MAX = 256 * KIB;
/** Keys in a secret file. */
const SECRET_KEYS_MAX = 1000;
/** Characters of an identity. */
const IDENTITY_LENGTH_MAX = 128;
/** Hex digits of a key: 128 to 512 bits. GnuTLS takes no longer ones. */
const KEY_DIGITS_MIN = 32;
const KEY_DIGITS_MAX = 128;
/** Characters of a bare secret. */
const BARE_SECRET_LENGTH_MIN = 20;
const BARE_SECRET_LENGTH_MAX = 1024;
/** Random bytes of a new secret. */
export const NEW_SECRET_SIZE = 32;

/** What random bytes become when they are read as text. */
const NOT_TEXT = /[\p{Cc}\uFFFD]/u;

const SCRYPT_SALT = 'nbdtwin secret 1';
const SCRYPT_OPTIONS = { N: 2 ** 17, r: 8, p: 1, maxmem: 192 * MIB } as const;
const SCRYPT_KEY_SIZE = 32;

/** Printable ASCII without the colon; `#` would start a comment. */
const IDENTITY = /^[!-9;-~]+$/;

/**
 * The keys of a secret file, in its order. Takes about half a second for a bare secret, off the event loop.
 * Failures: `secret-missing` (no line), `secret-too-short`, `secret-malformed`. No message repeats a secret.
 */
export async function parseSecretFile(text: string): Promise<PresharedKey[]> {
  const lines = linesOf(text);
  const [first, second] = lines;
  if (first !== undefined && second === undefined && !first.text.includes(':')) return [await stretch(first.text)];
  return parseLines(lines);
}

/**
 * The keys of a file that holds nothing but `identity:hexkey` lines: other programs have no notion of a bare secret.
 * Failures: as `parseSecretFile`.
 */
export function parseKeyFile(text: string): PresharedKey[] {
  return parseLines(linesOf(text));
}

interface Line {
  readonly number: number;
  readonly text: string;
}

function linesOf(text: string): Line[] {
  if (Buffer.byteLength(text) > SECRET_FILE_SIZE_MAX) {
    throw new Failure('secret-malformed', `the secret file is larger than ${SECRET_FILE_SIZE_MAX} bytes`);
  }
  return text
    .split('\n')
    .map((line, index) => ({ number: index + 1, text: line.trim() }))
    .filter((line) => line.text !== '' && !line.text.startsWith('#'));
}

function parseLines(lines: readonly Line[]): PresharedKey[] {
  if (lines.length === 0) throw new Failure('secret-missing', 'the secret file holds no secret');
  if (lines.length > SECRET_KEYS_MAX) {
    throw new Failure('secret-malformed', `the secret file holds more than ${SECRET_KEYS_MAX} keys`);
  }
  const keys = new Map<string, PresharedKey>();
  for (const line of lines) {
    const key = parseLine(line.text, line.number);
    if (keys.has(key.identity)) {
      throw new Failure('secret-malformed', `line ${line.number} of the secret file repeats identity ${key.identity}`);
    }
    keys.set(key.identity, key);
  }
  return [...keys.values()];
}

/** A line for a secret file, of NEW_SECRET_SIZE fresh random bytes. Without a line end. */
export function newSecretLine(random: Uint8Array): string {
  assert(random.length === NEW_SECRET_SIZE, 'a new secret has 256 bits');
  return `${DEFAULT_IDENTITY}:${Buffer.from(random).toString('hex')}`;
}

/** What is wrong with the name of a key, or undefined. */
export function identityFault(identity: string): string | undefined {
  if (identity.length <= IDENTITY_LENGTH_MAX && IDENTITY.test(identity)) return undefined;
  return `an identity is 1 to ${IDENTITY_LENGTH_MAX} printable characters without spaces`;
}

function parseLine(line: string, number: number): PresharedKey {
  const where = `line ${number} of the secret file`;
  const colon = line.indexOf(':');
  if (colon < 0) {
    throw new Failure(
      'secret-malformed',
      `${where} is not identity:hexkey; a bare secret is for the link alone, in a file of its own`,
    );
  }
  const identity = line.slice(0, colon);
  const digits = line.slice(colon + 1);
  const fault = identityFault(identity);
  if (fault !== undefined) throw new Failure('secret-malformed', `${where}: ${fault}`);
  if (!/^[0-9a-fA-F]*$/.test(digits) || digits.length % 2 !== 0) {
    throw new Failure(
      'secret-malformed',
      `${where}: the key is not an even number of hex digits; a bare secret holds no colon`,
    );
  }
  if (digits.length < KEY_DIGITS_MIN) {
    throw new Failure(
      'secret-too-short',
      `${where}: the key has ${digits.length} hex digits, at least ${KEY_DIGITS_MIN} are needed`,
    );
  }
  if (digits.length > KEY_DIGITS_MAX) {
    throw new Failure('secret-malformed', `${where}: the key has more than ${KEY_DIGITS_MAX} hex digits`);
  }
  return { identity, key: Buffer.from(digits, 'hex') };
}

async function stretch(secret: string): Promise<PresharedKey> {
  const length = Array.from(secret).length;
  if (length < BARE_SECRET_LENGTH_MIN) {
    throw new Failure(
      'secret-too-short',
      `the secret has ${length} characters, at least ${BARE_SECRET_LENGTH_MIN} are needed`,
    );
  }
  if (length > BARE_SECRET_LENGTH_MAX) {
    throw new Failure('secret-malformed', `the secret has more than ${BARE_SECRET_LENGTH_MAX} characters`);
  }
  if (NOT_TEXT.test(secret)) {
    throw new Failure('secret-malformed', 'the secret holds bytes that are no text: `nbdtwin secret new` makes one');
  }
  const key = await new Promise<Buffer>((resolve, reject) => {
    scrypt(secret, SCRYPT_SALT, SCRYPT_KEY_SIZE, SCRYPT_OPTIONS, (error, derived) =>
      error ? reject(error) : resolve(derived),
    );
  });
  return { identity: DEFAULT_IDENTITY, key };
}
