import { Failure } from '../base/failure.ts';
import { systemRandom } from '../io/random.ts';
import { DEFAULT_IDENTITY } from '../secure/identity.ts';
import { NEW_SECRET_SIZE, newSecretLine, parseSecretFile } from '../secure/secret-file.ts';

/** A line for a secret file, without a line end. Failures: `usage`, `secret-malformed` when that cannot be an identity. */
export async function newSecret(identity: string = DEFAULT_IDENTITY): Promise<string> {
  if (identity.includes(':')) throw new Failure('usage', 'an identity holds no colon');
  const key = newSecretLine(systemRandom.bytes(NEW_SECRET_SIZE)).split(':')[1]!;
  const line = `${identity}:${key}`;
  await parseSecretFile(line);
  return line;
}
