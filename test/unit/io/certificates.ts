/** An authority of its own for each test, made by the openssl program. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { join } from 'node:path';
import { temporaryFolder } from '../../support/temporary-folder.ts';

interface Certificate {
  readonly certificate: string;
  readonly key: string;
}

export interface Authority {
  /** PEM. */
  readonly certificate: string;
  issue(commonName: string): Certificate;
}

/** An authority, and certificates for 127.0.0.1 and localhost that it signs. */
export function newAuthority(name = 'nbdtwin test authority'): Authority {
  const folder = temporaryFolder();
  const run = (...args: string[]): void => void execFileSync('openssl', args, { cwd: folder, stdio: 'pipe' });
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-noenc'];
  run('req', '-x509', ...newKey, '-days', '2', '-subj', `/CN=${name}`, '-keyout', 'ca.key', '-out', 'ca.pem');
  fs.writeFileSync(join(folder, 'names'), 'subjectAltName=IP:127.0.0.1,DNS:localhost');
  const read = (file: string): string => fs.readFileSync(join(folder, file), 'utf8');
  return {
    certificate: read('ca.pem'),
    issue(commonName) {
      run('req', ...newKey, '-subj', `/CN=${commonName}`, '-keyout', 'end.key', '-out', 'end.csr');
      run(
        ...['x509', '-req', '-in', 'end.csr', '-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial'],
        ...['-days', '2', '-extfile', 'names', '-out', 'end.pem'],
      );
      return { certificate: read('end.pem'), key: read('end.key') };
    },
  };
}
