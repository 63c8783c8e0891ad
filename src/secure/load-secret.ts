/** Where a secret comes from: a file, a flag or the environment. */
import { Failure } from '../base/failure.ts';
import { parseKeyFile, parseSecretFile, SECRET_FILE_SIZE_MAX } from './secret-file.ts';
import type { PresharedKey } from './tls.ts';

/** Reads a file together with the permission bits of the very file that was read. Implemented in src/io. */
export interface SecretReader {
  /** Undefined when there is no such file. At most `sizeMax` + 1 bytes are read. `secret-unreadable` when it cannot be read. */
  readSecret(path: string, sizeMax: number): Promise<{ readonly text: string; readonly mode: number } | undefined>;
}

export interface SecretSources {
  /** --secret-file */
  readonly file?: string | undefined;
  /** --secret */
  readonly flag?: string | undefined;
  /** $NBDTWIN_SECRET; counts only when neither option is given. */
  readonly environment?: string | undefined;
}

/** Permission bits of group and others. */
const EXPOSED_MODE = 0o077;

/**
 * The keys that both sides share, in the order of the file. Failures: `usage` (both options given), `secret-missing`,
 * `secret-unreadable`, `secret-exposed` (others may read or write the file), `secret-too-short`, `secret-malformed`.
 */
export async function loadSecret(reader: SecretReader, sources: SecretSources): Promise<PresharedKey[]> {
  if (sources.file !== undefined && sources.flag !== undefined) {
    throw new Failure('usage', 'give --secret-file or --secret, not both');
  }
  if (sources.file !== undefined) return readKeys(reader, sources.file, parseSecretFile);
  const text = sources.flag ?? sources.environment;
  if (text === undefined || text === '') throw new Failure('secret-missing', 'no secret was given');
  return parseSecretFile(text);
}

/**
 * The keys of NBD clients, in the order of the file. Failures: as `loadSecret`; a bare secret is `secret-malformed`, since
 * no NBD client could use the key that is made of it.
 */
export function loadKeyFile(reader: SecretReader, path: string): Promise<PresharedKey[]> {
  return readKeys(reader, path, parseKeyFile);
}

async function readKeys(
  reader: SecretReader,
  path: string,
  parse: (text: string) => PresharedKey[] | Promise<PresharedKey[]>,
): Promise<PresharedKey[]> {
  const secret = await reader.readSecret(path, SECRET_FILE_SIZE_MAX);
  if (secret === undefined) throw new Failure('secret-missing', `${path} does not exist`);
  if ((secret.mode & EXPOSED_MODE) !== 0) {
    const mode = (secret.mode & 0o777).toString(8).padStart(3, '0');
    throw new Failure('secret-exposed', `${path} has mode ${mode}: others than its owner can reach it`);
  }
  try {
    return await parse(secret.text);
  } catch (error) {
    if (error instanceof Failure) throw new Failure(error.code, `${path}: ${error.message}`, { cause: error });
    throw error;
  }
}
