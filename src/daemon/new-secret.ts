import { parseExportName } from '../base/export-name.ts';
import { Failure, isFailure } from '../base/failure.ts';
import { systemRandom } from '../io/random.ts';
import { DEFAULT_IDENTITY } from '../secure/identity.ts';
import { identityFault, NEW_SECRET_SIZE, newSecretLine } from '../secure/secret-file.ts';

/** A line for a secret file, without a line end. Failures: `usage` when that identity could write no export. */
export function newSecret(identity: string = DEFAULT_IDENTITY): string {
  const fault = identityFault(identity) ?? exportFault(identity);
  if (fault !== undefined) throw new Failure('usage', `--identity ${JSON.stringify(identity)}: ${fault}`);
  const key = newSecretLine(systemRandom.bytes(NEW_SECRET_SIZE)).split(':')[1]!;
  return `${identity}:${key}`;
}

/** An identity is the name of the exports that it may write. */
function exportFault(identity: string): string | undefined {
  try {
    parseExportName(identity);
    return undefined;
  } catch (error) {
    if (isFailure(error, 'name-invalid')) return `it must be a possible ${error.message}`;
    throw error;
  }
}
