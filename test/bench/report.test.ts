import { describe, expect, it } from 'vitest';
import { sampleOf } from '../../bench/common/statistics.ts';
import { parseFio, WORKLOADS } from '../../bench/system/fio.ts';
import { formatReport, type Observation, type Report, summarise } from '../../bench/system/report.ts';

const [write, read] = WORKLOADS.filter(({ name }) => name === 'write-4k' || name === 'read-4k');
const commit = WORKLOADS.find(({ flushEach }) => flushEach);

function direction(iops: number, p50: number) {
  return { iops, bw_bytes: iops * 4096, clat_ns: { percentile: { '50.000000': p50, '99.000000': p50 * 10 } } };
}

function answer(job: object): string {
  return `fio: connected to NBD server\n${JSON.stringify({ jobs: [{ error: 0, ...job }] })}`;
}

function observe(server: string, round: number, iops: number, keptUp?: boolean): Observation {
  const measurement = { iops, bytesPerSecond: iops * 4096, latencyUs: { p50: 100, p99: 900 } };
  const mirror = keptUp === undefined ? undefined : { keptUp, settleMs: 10 * round };
  return { round, workload: 'write-4k', server, measurement, mirror };
}

describe('a sample', () => {
  it('has the middle value of an odd number, the mean of the two middle ones of an even number', () => {
    expect(sampleOf([30, 10, 20])).toEqual({ median: 20, min: 10, max: 30 });
    expect(sampleOf([40, 10, 20, 30])).toEqual({ median: 25, min: 10, max: 40 });
  });

  it('needs a value', () => {
    expect(() => sampleOf([])).toThrow('needs values');
  });
});

describe("fio's answer", () => {
  const sync = { lat_ns: { percentile: { '50.000000': 7000, '99.000000': 8000 } } };
  const text = answer({ read: direction(500, 2000), write: direction(300, 1000), sync });

  it('is read from the direction of the load, whatever fio says before', () => {
    expect(parseFio(text, write!)).toEqual({ iops: 300, bytesPerSecond: 1228800, latencyUs: { p50: 1, p99: 10 } });
    expect(parseFio(text, read!).iops).toBe(500);
  });

  it('gives the latency of the flush where each write is flushed', () => {
    expect(parseFio(text, commit!).latencyUs).toEqual({ p50: 7, p99: 8 });
  });

  it('is refused when fio reports an error or finished nothing', () => {
    expect(() => parseFio(answer({ error: 5 }), write!)).toThrow('write-4k failed (5)');
    expect(() => parseFio(answer({ read: direction(0, 1), write: direction(0, 1), sync }), write!)).toThrow(
      'no request',
    );
  });
});

describe('the report', () => {
  const observations = [
    ...[100, 300, 200].map((iops, index) => observe('nbdkit', index + 1, iops)),
    ...[50, 90, 100].map((iops, index) => observe('nbdtwin + mirror', index + 1, iops, index !== 1)),
  ];

  it('sums up the rounds and compares each with the baseline of the same round', () => {
    const [baseline, mirrored] = summarise(observations, 'nbdkit');
    expect(baseline).toMatchObject({
      server: 'nbdkit',
      iops: { median: 200, min: 100, max: 300 },
      ratio: { min: 1, max: 1 },
    });
    expect(mirrored).toMatchObject({
      iops: { median: 90 },
      ratio: { median: 0.5, min: 0.3, max: 0.5 },
      mirror: { keptUp: 2, settleMs: { median: 20 } },
    });
    expect(baseline).not.toHaveProperty('mirror');
  });

  it('needs the baseline in every round', () => {
    expect(() => summarise(observations.slice(1), 'nbdkit')).toThrow(
      'nbdkit was not measured under write-4k in round 1',
    );
  });

  it('prints a row for each server, and says when a mirror fell behind', () => {
    const report: Report = {
      version: 1,
      machine: {
        cpu: 'a processor',
        cpuCount: 2,
        memorySize: 2 ** 33,
        kernel: '6.1',
        fileSystem: 'ext4',
        node: 'v20.19.0',
        programs: { fio: 'fio-3.33' },
      },
      parameters: { rounds: 3, diskSize: 2 ** 30, warmUpMs: 100, runMs: 1000 },
      baseline: 'nbdkit',
      results: summarise(observations, 'nbdkit'),
    };
    const lines = formatReport(report, [write!]).split('\n');
    expect(lines[0]).toBe('a processor, 2 CPUs, 8 GiB, Linux 6.1, ext4, Node v20.19.0');
    expect(lines.find((line) => line.startsWith('nbdkit'))).toMatch(
      /^nbdkit +200 +\[100, 300\] +1 +100 +900 +1\.00 +\[1\.00, 1\.00\]$/,
    );
    expect(lines.find((line) => line.startsWith('nbdtwin'))).toMatch(
      /^nbdtwin \+ mirror +90 +\[50, 100\].* 0\.50 +\[0\.30, 0\.50\] +fell behind in 1 of 3 rounds, in step 20 ms after$/,
    );
  });
});
