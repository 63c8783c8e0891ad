/** What a primary tells about itself: `nbdtwin status`, metrics, the demonstration. Plain data, ready for JSON. */
import type { Mode, OnMirrorLoss } from '../base/mode.ts';

/** @see docs/state-machines.md */
export type SessionState =
  | 'offline'
  | 'connecting'
  | 'negotiating'
  | 'catch-up'
  | 'streaming'
  | 'behind'
  | 'queued'
  | 'seeding'
  | 'rescan'
  | 'refused';

export interface RescanProgress {
  /** `everything`, or only what is marked. */
  readonly scope: 'everything' | 'marked';
  /** Bytes in scope of this pass, and how many of them have been compared. Monotonic within a pass. */
  readonly scopeSize: number;
  readonly comparedSize: number;
  /** Bytes of data that the mirror was sent to repair differences, and bytes made zero there. */
  readonly shippedSize: number;
  readonly zeroedSize: number;
  readonly elapsedMs: number;
  /** Remaining time at the present rate; undefined while unknown. */
  readonly etaMs: number | undefined;
  /** 1 for the first pass of this rescan; more when blocks were dirtied faster than they could be sent. */
  readonly pass: number;
  /** False while the link does not carry what is dirtied meanwhile: shown as `not converging`. */
  readonly converging: boolean;
}

/** @see agreement.ts */
export type AgreementState = 'agreeing' | 'waiting' | 'degraded' | 'stalled' | 'failing';

/** Whether what the mode promises holds now. */
export interface AgreementStatus {
  readonly state: AgreementState;
  /** Milliseconds in this state. */
  readonly stateAgeMs: number;
  /** Requests that wait for the mirror. */
  readonly waiting: number;
  readonly mirrorTimeoutMs: number;
  readonly onMirrorLoss: OnMirrorLoss;
}

export interface MirrorLinkStatus {
  /** host:port */
  readonly mirror: string;
  readonly state: SessionState;
  /** Milliseconds in this state. */
  readonly stateAgeMs: number;
  /** Hexadecimal replica id, once known. */
  readonly replicaId: string | undefined;
  /** Why the last session ended or was refused. */
  readonly problem: { readonly code: string; readonly message: string; readonly hint: string } | undefined;
  readonly mode: Mode;
  /** Undefined in `async`. */
  readonly agreement: AgreementStatus | undefined;
  /** Sequences that the mirror has acknowledged in this run. */
  readonly received: number;
  readonly applied: number;
  readonly durable: number;
  readonly recorded: number;
  /**
   * What would be lost with this host now, beyond what the mirror has applied. While a rescan is due or runs, bytes are
   * those of the marked regions.
   */
  readonly lag: { readonly operations: number; readonly bytes: number; readonly ms: number };
  readonly window: { readonly used: number; readonly limit: number };
  /** What has no room in the window, in bytes on disk; where new operations go, and how often that has changed. */
  readonly spool: {
    readonly used: number;
    readonly limit: number;
    readonly rung: 'window' | 'spool' | 'merged';
    readonly rungChanges: number;
  };
  /** Bytes that the open staged run takes on the mirror; what one needs at least that the mirror had no room for, or 0. */
  readonly staging: { readonly used: number; readonly needed: number };
  /** The dirty map: regions that are marked durably, in step or not. Not valid: it could not be written. */
  readonly map: { readonly valid: boolean; readonly set: number; readonly version: number };
  /** Bytes in regions that may differ and wait for a rescan. */
  readonly markedSize: number;
  /** Bytes in regions that the local disk could not read. */
  readonly unreadableSize: number;
  readonly regionSize: number;
  readonly rescan: RescanProgress | undefined;
  /** The last rescan that completed. */
  readonly lastRescan: RescanProgress | undefined;
  /** Bytes on the link in all sessions so far, before TLS. */
  readonly wireSent: number;
  readonly wireReceived: number;
  readonly sessions: number;
  /** Milliseconds until the next attempt, while offline or refused. */
  readonly nextAttemptMs: number | undefined;
}

export interface PrimaryStatus {
  readonly role: 'primary';
  readonly volumeId: string;
  readonly generation: string;
  readonly run: string;
  readonly size: number;
  /** Sequence of the last operation. */
  readonly sequence: number;
  readonly operations: {
    readonly writes: number;
    readonly zeroes: number;
    readonly trims: number;
    readonly flushes: number;
  };
  readonly bytesWritten: number;
  readonly mirrors: readonly MirrorLinkStatus[];
}

/** One range that differs between the images. */
interface DifferingRange {
  readonly offset: number;
  readonly length: number;
}

export interface VerifyReport {
  readonly comparedSize: number;
  readonly differingSize: number;
  /** In order, neighbours joined, at most DIFFERING_RANGES_MAX. */
  readonly ranges: readonly DifferingRange[];
  readonly truncated: boolean;
  readonly elapsedMs: number;
}

export const DIFFERING_RANGES_MAX = 10_000;
