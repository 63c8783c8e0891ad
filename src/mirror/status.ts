/** What a mirror tells about itself. Plain data, ready for JSON. */

/** A staged run that is open, or kept. */
export interface StagedStatus {
  /** Bytes that it takes beside the image. */
  readonly size: number;
  /** Bytes that it may take; undefined: what the file system has. */
  readonly limit: number | undefined;
  readonly ageMs: number;
  /** Complete, and being copied into the image, or waiting for that. */
  readonly committed: boolean;
  /** Without the net: it ran out of room and goes straight to the image. */
  readonly through: boolean;
}

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
  readonly state: 'waiting' | 'queued' | 'catch-up' | 'streaming' | 'rescan' | 'seeding' | 'failed';
  /** While `queued`: its place among those that wait for a rescan or first seeding, from 1. */
  readonly queuePlace: number | undefined;
  /**
   * True when the image is the primary's content at some position, or a legal crash state of it; false until a first
   * seeding is complete, while a committed run is being copied, and where a staged run went on without room.
   */
  readonly consistent: boolean;
  /** Nothing beyond `applied` can be in the image: it is the content at that very position. */
  readonly exact: boolean;
  /** A committed staged run waits to be copied into the image; until then it may be half new. `recover` does it too. */
  readonly committing: boolean;
  readonly received: number;
  readonly applied: number;
  readonly durable: number;
  readonly recorded: number;
  /** Age of the recorded position. */
  readonly recordedAgeMs: number | undefined;
  /** The staged run that is open, or kept for a session that goes on with it. */
  readonly staging: StagedStatus | undefined;
  /** Staged runs that were copied into the image since this process opened it. */
  readonly commits: number;
  /** Milliseconds since the last of them; undefined without one. */
  readonly lastCommitAgeMs: number | undefined;
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

/** Rescans and first seedings of all exports. */
export interface RescansStatus {
  /** `--rescans-max` */
  readonly limit: number;
  /** How many were let in and are not complete. */
  readonly running: number;
  /** How many of these have not got on for so long that others are let in beside them. */
  readonly stuck: number;
  readonly waiting: number;
}

export interface MirrorStatus {
  readonly role: 'mirror';
  readonly directory: string;
  readonly listening: string;
  readonly rescans: RescansStatus;
  readonly exports: readonly MirrorExportStatus[];
}
