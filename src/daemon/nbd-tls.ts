/** TLS for NBD clients, from the files that the options name. */
import { Failure, isFailure, messageOf } from '../base/failure.ts';
import { KIB } from '../base/units.ts';
import type { FileSystem } from '../io/disk.ts';
import { loadKeyFile, type SecretReader } from '../secure/load-secret.ts';
import type { NbdTls, PresharedKey } from '../secure/tls.ts';
import type { NbdTlsConfig } from './config.ts';

const PEM_SIZE_MAX = 256 * KIB;

export interface LoadedNbdTls {
  readonly mode: 'require' | 'on' | 'off';
  /** Present unless `off`. */
  readonly material: NbdTls | undefined;
}

/** Failures: `tls-config`. */
export async function loadNbdTls(files: FileSystem, reader: SecretReader, config: NbdTlsConfig): Promise<LoadedNbdTls> {
  const { pskFile, certificateFile, keyFile, clientAuthorityFile } = config;
  if ((certificateFile === undefined) !== (keyFile === undefined)) {
    throw new Failure('tls-config', '--tls-cert and --tls-key go together');
  }
  if (clientAuthorityFile !== undefined && certificateFile === undefined) {
    throw new Failure('tls-config', '--tls-ca checks the certificates of clients: give --tls-cert and --tls-key too');
  }
  const anyFile = pskFile !== undefined || certificateFile !== undefined;
  const mode = config.mode ?? (anyFile ? 'require' : 'off');
  if (mode === 'off') return { mode, material: undefined };
  if (!anyFile) throw new Failure('tls-config', `--tls ${mode} needs --tls-psk-file, or --tls-cert and --tls-key`);
  const keys = pskFile === undefined ? undefined : await loadClientKeys(reader, pskFile);
  const certificate =
    certificateFile === undefined
      ? undefined
      : {
          certificate: await readPem(files, certificateFile),
          key: await readPem(files, keyFile!),
          ...(clientAuthorityFile === undefined ? {} : { clientAuthority: await readPem(files, clientAuthorityFile) }),
        };
  return { mode, material: { ...(keys && { keys }), ...(certificate && { certificate }) } };
}

/** What is wrong with the file, and with which option, is in the message: hints for --secret-file would mislead. */
async function loadClientKeys(reader: SecretReader, path: string): Promise<PresharedKey[]> {
  try {
    return await loadKeyFile(reader, path);
  } catch (error) {
    if (!isFailure(error)) throw error;
    throw new Failure('tls-config', `--tls-psk-file: ${error.message}`, { cause: error });
  }
}

async function readPem(files: FileSystem, path: string): Promise<string> {
  let data: Buffer | undefined;
  try {
    data = await files.readFile(path, PEM_SIZE_MAX);
  } catch (error) {
    throw new Failure('tls-config', messageOf(error), { cause: error });
  }
  if (data === undefined) throw new Failure('tls-config', `${path} does not exist`);
  return data.toString('utf8');
}
