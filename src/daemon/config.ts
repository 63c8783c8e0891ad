/** What a running process is made from: the command line, checked for form. Sizes are bytes, times ms. */
import type { Address } from '../io/network.ts';
import type { StagingRules } from '../mirror/image-state.ts';
import type { AgreementSettings } from '../primary/agreement.ts';
import type { SecretSources } from '../secure/load-secret.ts';

export type { SecretSources };

export interface ServeConfig {
  /** Path of the disk. */
  readonly disk: string;
  /** Make the disk, of this size, instead of opening it. */
  readonly createSize: number | undefined;
  readonly readOnly: boolean;
  /** Default: the disk's base name without extension. */
  readonly exportName: string | undefined;
  readonly description: string;
  readonly listen: readonly Address[];
  readonly tls: NbdTlsConfig;
  /** Default for a file: `DISK.twin` beside it. */
  readonly stateDirectory: string | undefined;
  /** Undefined: serve without replicating. */
  readonly replication: ReplicationConfig | undefined;
  /** How long a stop waits for clients, and then for the mirror. */
  readonly drainMs: number;
}

export interface ReplicationConfig {
  readonly mirror: Address;
  readonly secret: SecretSources;
  /** Line of the secret file to use; needed when it has several. */
  readonly identity: string | undefined;
  /** When requests are answered, and what becomes of them without a mirror. */
  readonly agreement: AgreementSettings;
  readonly windowSize: number;
  /** 0: no spool. */
  readonly spoolSize: number;
  /** Default: `spool` in the state directory. */
  readonly spoolDirectory: string | undefined;
  /** Regions that stay marked in the dirty map though the mirror is in step. */
  readonly dirtyActive: number;
  /** Bytes per second; undefined: adaptive. */
  readonly rescanRate: number | undefined;
  readonly rescanAll: boolean;
  /** Undefined: nothing is compared but on request. */
  readonly periodicVerify: { readonly everyMs: number; readonly rate: number; readonly repair: boolean } | undefined;
  readonly rekeySize: number;
  readonly rekeyIntervalMs: number;
}

/** TLS for NBD clients. Paths of files. */
export interface NbdTlsConfig {
  /** `require`: clients without TLS are turned away; `on`: both; default `require` when any file is given, else `off`. */
  readonly mode: 'require' | 'on' | 'off' | undefined;
  readonly pskFile: string | undefined;
  readonly certificateFile: string | undefined;
  readonly keyFile: string | undefined;
  /** Clients must show a certificate of this authority. */
  readonly clientAuthorityFile: string | undefined;
}

export interface MirrorConfig {
  readonly directory: string;
  readonly listen: Address;
  readonly staging: StagingRules;
  /** Rescans and first seedings that run at the same time. */
  readonly rescansMax: number;
  readonly secret: SecretSources;
}
