import { describe, expect, it } from 'vitest';
import { sampleOf } from '../../bench/common/statistics.ts';
import { parseFio, workloadNamed } from '../../bench/system/fio.ts';
import { formatReport, type Observation, type Report, summarise } from '../../bench/system/report.ts';

const write = workloadNamed('write-4k');
const read = workloadNamed('read-4k');
const commit = workloadNamed('commit-4k');
const mixed = workloadNamed('mixed-4k-16');

function direction(iops: number, p50: number) {
  return { iops, bw_bytes: iops * 4096, clat_ns: { percentile: { '50.000000': p50, '99.000000': p50 * 10 } } };
}

function answer(job: object): string {
  return `fio: connected to NBD server\n${JSON.stringify({ jobs: [{ error: 0, ...job }] })}`;
}

function observe(server: string, round: number, iops: number, keptUp?: boolean): Observation {
  const measurement = { iops, bytesPerSecond: iops * 4096, latencyUs: { p50: 100, p99: 900 } };
  const mirror = keptUp === undefined ? undefined : { keptUp, settleMs: 10 * round };
  return { round, workload: 'write-4k', server, measurement, cpuSeconds: 2.5, memory: 3e6, mirror };
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
    expect(parseFio(text, write)).toEqual({ iops: 300, bytesPerSecond: 1228800, latencyUs: { p50: 1, p99: 10 } });
    expect(parseFio(text, read).iops).toBe(500);
    expect(parseFio(text, mixed).iops).toBe(800);
  });

  it('gives the latency of the flush where each write is flushed', () => {
    expect(parseFio(text, commit).latencyUs).toEqual({ p50: 7, p99: 8 });
  });

  it('is refused when fio reports an error or finished nothing', () => {
    expect(() => parseFio(answer({ error: 5 }), write)).toThrow('write-4k failed (5)');
    expect(() => parseFio(answer({ read: direction(0, 1), write: direction(0, 1), sync }), write)).toThrow(
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
    const [baseline, mirrored] = summarise(observations, ['nbdkit']);
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

  it('measures by the best of several in the same round', () => {
    const peers = [...[100, 300].map((iops, index) => observe('one', index + 1, iops)), observe('two', 1, 200)];
    const results = summarise([...peers, observe('nbdtwin', 1, 100), observe('nbdtwin', 2, 600)], ['one', 'two']);
    expect(results.at(-1)!.ratio).toEqual({ median: 1.25, min: 0.5, max: 2 });
  });

  it('needs the baseline in every round', () => {
    expect(() => summarise(observations.slice(1), ['nbdkit'])).toThrow(
      'nbdkit: not measured under write-4k in round 1',
    );
  });

  it('prints a row for each server, and says when a mirror fell behind', () => {
    const report: Report = {
      version: 2,
      machine: {
        cpu: 'a processor',
        cpuCount: 2,
        memorySize: 2 ** 33,
        kernel: '6.1',
        fileSystem: 'ext4',
        node: 'v20.19.0',
        programs: { fio: 'fio-3.33' },
      },
      parameters: { rounds: 3, diskSize: 2 ** 30, trainingMs: 6000, warmUpMs: 100, runMs: 1000 },
      series: [
        {
          name: 'serve',
          text: 'Serving',
          baseline: ['nbdkit'],
          targets: [
            { server: 'nbdtwin + mirror', workload: 'write-4k', ratio: 0.4 },
            { server: 'nbdkit', workload: 'write-4k', ratio: 1.1 },
            { server: 'nbdkit', workload: 'read-4k', ratio: 1 },
          ],
          results: summarise(observations, ['nbdkit']),
        },
      ],
    };
    const lines = formatReport(report).split('\n');
    expect(lines[0]).toBe('a processor, 2 CPUs, 8 GiB, Linux 6.1, ext4, Node v20.19.0');
    expect(lines.find((line) => line.startsWith('nbdkit'))).toMatch(
      /^nbdkit +200 +\[100, 300\] +1 +100 +900 +1\.00 +\[1\.00, 1\.00\] +2\.50 +3$/,
    );
    expect(lines.find((line) => line.startsWith('nbdtwin'))).toMatch(
      /^nbdtwin \+ mirror +90 +\[50, 100\].* 0\.50 +\[0\.30, 0\.50\] +2\.50 +3 +fell behind in 1 of 3 rounds, in step 20 ms after$/,
    );
    expect(lines.filter((line) => line.startsWith('4 KiB random write, depth 32 '))).toEqual([
      expect.stringMatching(/nbdtwin \+ mirror +0\.4 +0\.50 +reached$/),
      expect.stringMatching(/nbdkit +1\.1 +1\.00 +missed$/),
    ]);
    expect(lines.at(-1)).not.toContain('read');
  });
});
