/** What a mirror tells about itself. Plain data, ready for JSON. */

export interface MirrorExportStatus {
  readonly name: string;
  /** Path of the image. */
  readonly image: string;
  readonly size: number;
  readonly replicaId: string;
  readonly volumeId: string;
  readonly generation: string;
  readonly run: string;
  /** `streaming` etc. as far as the mirror knows: what it is doing with this export. */
  readonly state: 'waiting' | 'catch-up' | 'streaming' | 'rescan' | 'seeding' | 'failed';
  /** True when the image is the primary's content at `applied`; false in the middle of a seeding or rescan. */
  readonly consistent: boolean;
  readonly received: number;
  readonly applied: number;
  readonly durable: number;
  readonly recorded: number;
  /** Milliseconds since the last message from the primary; undefined when none came since this process started. */
  readonly lastMessageAgeMs: number | undefined;
  /**
   * What the primary had beyond `applied` as of that message: what is lost if it is gone. Undefined when none came since
   * this process started. Bytes of zeroes are not counted.
   */
  readonly lag: { readonly operations: number; readonly bytes: number } | undefined;
  /** Address of the primary that is connected. */
  readonly primary: string | undefined;
  readonly problem: { readonly code: string; readonly message: string; readonly hint: string } | undefined;
}

export interface MirrorStatus {
  readonly role: 'mirror';
  readonly directory: string;
  readonly listening: string;
  readonly exports: readonly MirrorExportStatus[];
}
