/** Who may do what: identities are the names of keys. */
import { Failure } from '../base/failure.ts';
import type { PresharedKey } from './tls.ts';

/** Identity of a bare secret and of `nbdtwin secret new`; it may write every export. */
export const DEFAULT_IDENTITY = 'nbdtwin';

/** True when `identity` may write that export: the default identity any, another only its own name and below it. */
export function mayWrite(identity: string, exportName: string): boolean {
  if (identity === DEFAULT_IDENTITY) return true;
  return exportName === identity || exportName.startsWith(`${identity}/`);
}

/**
 * The key that a primary uses: the only one, or the one named `identity`. Failures: `secret-missing`,
 * `secret-ambiguous`.
 */
export function selectKey(keys: readonly PresharedKey[], identity?: string): PresharedKey {
  if (identity !== undefined) {
    const key = keys.find((candidate) => candidate.identity === identity);
    if (key === undefined) throw new Failure('secret-missing', `the secret file has no line for identity ${identity}`);
    return key;
  }
  const [only, another] = keys;
  if (only === undefined) throw new Failure('secret-missing', 'the secret file holds no key');
  if (another !== undefined) {
    const names = keys.slice(0, 5).map((key) => key.identity);
    throw new Failure(
      'secret-ambiguous',
      `the secret file holds ${keys.length} keys (${names.join(', ')}${keys.length > 5 ? ', …' : ''})`,
    );
  }
  return only;
}
