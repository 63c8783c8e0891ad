/** The two comparisons: who serves how fast, and who replicates how fast. Each has its peers and its targets. */
import type { WorkloadName } from './fio.ts';
import { QEMU_QUORUM, QEMU_VARIANTS } from './qemu.ts';
import { NBDKIT, SERVERS, type ServerKind, startNbdtwinWithMirror } from './servers.ts';

/** What nbdtwin has set out to reach. */
export interface Target {
  readonly server: string;
  readonly workload: WorkloadName;
  /** IOPS over those of the baseline, or of the one server `against`. */
  readonly ratio: number;
  readonly against?: string;
}

export interface Series {
  readonly name: string;
  readonly text: string;
  readonly servers: readonly ServerKind[];
  /** The best of these, workload by workload, is what the others are measured by. */
  readonly baseline: readonly string[];
  readonly workloads: readonly WorkloadName[];
  readonly targets: readonly Target[];
}

function targetsOf(server: string, ratios: Readonly<Partial<Record<WorkloadName, number>>>): Target[] {
  return (Object.entries(ratios) as [WorkloadName, number][]).map(([workload, ratio]) => ({ server, workload, ratio }));
}

const SERVE_TARGETS = targetsOf('nbdtwin', {
  'write-4k': 1,
  'read-4k': 1,
  'write-4k-1': 1,
  'write-4k-1-pinned': 1,
  'write-64k': 1,
  'write-1m': 0.9,
  'read-1m': 0.9,
  'commit-4k': 1,
  'read-4k-cold': 0.9,
  'mixed-4k-16': 1,
});

const SERVE: Series = {
  name: 'serve',
  text: 'Serving without a mirror, over a unix socket',
  servers: SERVERS,
  baseline: [NBDKIT.name],
  workloads: SERVE_TARGETS.map(({ workload }) => workload),
  targets: SERVE_TARGETS,
};

const twin = (mode: string): ServerKind => ({
  name: `nbdtwin ${mode}`,
  start: (disk, folder) => startNbdtwinWithMirror(disk, folder, ['--mode', mode]),
});

const REPLICATE: Series = {
  name: 'replicate',
  text: 'Replicating to another process over TLS with a pre-shared key',
  servers: [twin('async'), twin('flush'), twin('sync'), ...QEMU_VARIANTS],
  baseline: QEMU_VARIANTS.map(({ name }) => name),
  workloads: [
    'write-4k',
    'write-4k-1',
    'write-4k-1-pinned',
    'write-64k',
    'write-1m',
    'commit-4k',
    'commit-4k-16',
    'mixed-4k-16',
  ],
  targets: [
    ...targetsOf('nbdtwin async', {
      'write-4k': 4,
      'write-4k-1': 2,
      'write-4k-1-pinned': 2,
      'write-64k': 2,
      'write-1m': 2,
      'commit-4k': 1.2,
    }),
    // Of the peers only this one makes the other side durable too.
    { server: 'nbdtwin flush', workload: 'commit-4k', ratio: 1.5, against: QEMU_QUORUM },
    ...targetsOf('nbdtwin sync', { 'write-4k': 2.5 }),
  ],
};

export const SERIES: readonly Series[] = [SERVE, REPLICATE];
