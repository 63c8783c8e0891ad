/** What happened in each act of the demonstration, as a table. */
import { formatDuration, formatSize } from '../../base/units.ts';
import { count } from '../../observe/status-text.ts';
import { alignTable } from '../../observe/table.ts';
import type { ServeStatus } from '../status.ts';
import type { Lag } from './watch.ts';
import { linkOf } from './watch.ts';

/** Running totals at one moment. */
export interface Totals {
  readonly operations: number;
  readonly bytes: number;
  readonly wire: number;
}

export interface Act {
  readonly name: string;
  readonly before: Totals;
  readonly after: Totals;
  readonly mostLag: Lag;
  readonly elapsedMs: number;
  /** Bytes sent by a rescan. */
  readonly rescanned: number | undefined;
}

export function totalsOf(status: ServeStatus, wire: number): Totals {
  const { operations, bytesWritten } = status.replication!;
  const { writes, zeroes, trims, flushes } = operations;
  return { operations: writes + zeroes + trims + flushes, bytes: bytesWritten, wire };
}

export function actsTable(acts: readonly Act[], diskSize: number): string[] {
  const heading = ['', 'operations', 'written', 'on the wire', 'most lag:', 'bytes', 'time', 'took', 'rescan shipped'];
  const rows = acts.map((act) => [
    act.name,
    count(act.after.operations - act.before.operations),
    formatSize(act.after.bytes - act.before.bytes),
    formatSize(act.after.wire - act.before.wire),
    count(act.mostLag.operations),
    formatSize(act.mostLag.bytes),
    formatDuration(act.mostLag.ms),
    formatDuration(act.elapsedMs),
    act.rescanned === undefined ? 'none' : rescanShare(act.rescanned, diskSize),
  ]);
  return alignTable(heading, rows);
}

/** `48 MiB, 4.7 % of the disk` */
export function rescanShare(shipped: number, diskSize: number): string {
  return `${formatSize(shipped)}, ${((shipped / diskSize) * 100).toFixed(1)} % of the disk`;
}

/**
 * Bytes that the last completed rescan sent; undefined when it is the one that was there `before`, or when there was
 * nothing yet to be compared again.
 */
export function rescannedSince(before: ServeStatus, after: ServeStatus): number | undefined {
  if (after.replication?.sequence === 0) return undefined;
  const [earlier, last] = [linkOf(before).lastRescan, linkOf(after).lastRescan];
  if (last === undefined) return undefined;
  const same = earlier !== undefined && JSON.stringify(earlier) === JSON.stringify(last);
  return same ? undefined : last.shippedSize;
}
