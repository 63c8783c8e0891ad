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
  /** Since the first pass began. */
  readonly elapsedMs: number;
  /**
   * Remaining time at the rate of this pass, with what has been marked anew meanwhile; undefined while unknown, and when
   * more is marked than is compared.
   */
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
  /** While `queued`: its place among those that wait for the mirror, from 1; undefined until it is told. */
  readonly queuePlace: number | undefined;
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
  /** Bytes per second that a rescan may read; undefined: as fast as clients allow. */
  readonly rescanRate: number | undefined;
  readonly rescan: RescanProgress | undefined;
  /** The last rescan that completed. */
  readonly lastRescan: RescanProgress | undefined;
  /** Bytes on the link in all sessions so far, before TLS. */
  readonly wireSent: number;
  readonly wireReceived: number;
  readonly sessions: number;
  /** Milliseconds until the next attempt, while offline or refused. */
  readonly nextAttemptMs: number | undefined;
  /** With --verify-every. */
  readonly verification?: VerificationStatus;
}

/** What a cycle of the periodic verification has found so far. */
export interface VerificationResult {
  /** Bytes that differed, in blocks of 4096, and how many of them the mirror has been repaired by, durably. */
  readonly differingSize: number;
  readonly repairedSize: number;
  /** Bytes that the local disk could not read. */
  readonly unreadableSize: number;
  /** That differed or could not be read: the first ones, in order. */
  readonly ranges: readonly DifferingRange[];
  readonly truncated: boolean;
}

/** @see periodic-verify.ts */
export interface VerificationStatus {
  /** Milliseconds from the beginning of a cycle to that of the next. */
  readonly everyMs: number;
  readonly repair: boolean;
  readonly running:
    | (VerificationResult & {
        /** Milliseconds since the cycle began. */
        readonly elapsedMs: number;
        /** Everything below has been compared, of `size` bytes. */
        readonly reached: number;
        readonly size: number;
        /** Bytes per second, lately; undefined: not yet in this process. */
        readonly rate: number | undefined;
        /** Why it does not get on. */
        readonly problem: string | undefined;
      })
    | undefined;
  /** The last cycle that was completed. */
  readonly last:
    | (VerificationResult & {
        readonly elapsedMs: number;
        readonly comparedSize: number;
        /** Milliseconds since it was complete. */
        readonly ageMs: number;
      })
    | undefined;
  /** Milliseconds until the next cycle, while none is under way. */
  readonly nextInMs: number | undefined;
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
  /** What lies there as far as the file system on the disk tells: the path of a file, say. Of a few first ranges. */
  readonly owner?: string;
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
