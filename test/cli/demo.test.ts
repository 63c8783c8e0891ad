/** `nbdtwin demo` without a terminal, as `npm start` runs it. */
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it, onTestFinished } from 'vitest';
import { type Exit, PROGRAM, until } from '../support/daemon.ts';
import { temporaryFolder } from '../support/temporary-folder.ts';

const DEMO_TIMEOUT_MS = 300_000;

interface Demo {
  /** Reads nothing more: from then on writing to its stdout fails. */
  closeStdout(): void;
  /** Where its temporary folder is made. */
  readonly temporary: string;
  readonly output: () => string;
  readonly exited: Promise<Exit>;
  kill(signal: NodeJS.Signals): void;
}

function startDemo(): Demo {
  const temporary = temporaryFolder();
  const child = spawn(process.execPath, [PROGRAM, 'demo'], {
    env: { ...process.env, TMPDIR: temporary },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
  }
  const exited = new Promise<Exit>((resolve) => child.once('close', (status, signal) => resolve({ status, signal })));
  onTestFinished(async () => {
    child.kill('SIGTERM');
    await exited;
  });
  return {
    temporary,
    output: () => output,
    exited,
    kill: (signal) => void child.kill(signal),
    closeStdout: () => void child.stdout.destroy(),
  };
}

/** Process ids of the primary and the mirror, as the demonstration names them. */
function childPids(output: string): [primary: number, mirror: number] {
  const match = /a primary \(pid (\d+)\) and a mirror \(pid (\d+)\)/.exec(output);
  if (match === null) throw new Error(`no process ids:\n${output}`);
  return [Number(match[1]), Number(match[2])];
}

function isNbdtwin(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('nbdtwin');
  } catch {
    return false;
  }
}

function expectNothingLeft(demo: Demo): void {
  expect(readdirSync(demo.temporary)).toEqual([]);
  expect(childPids(demo.output()).filter(isNbdtwin)).toEqual([]);
}

describe('the demonstration', () => {
  it(
    'ends with identical images and a table, and leaves nothing behind',
    async () => {
      const demo = startDemo();
      expect(await demo.exited, demo.output()).toEqual({ status: 0, signal: null });
      const output = demo.output();
      expect(output).toContain('bit for bit: all 1 GiB of both images are identical');
      expect(output).toContain('nothing of what was written in clear');
      expect(output).toMatch(/link cut while 16 MiB were written: caught up in order, without a rescan/);
      expect(output).toMatch(/link cut while 64 MiB .* caught up in order from the spool on disk/);
      expect(output).toMatch(/link cut while 176 MiB .* a rescan sent [\d.]+ MiB, [\d.]+ % of the disk/);
      expect(output).toMatch(/in the middle of the rescan: .* e2fsck finds it clean/);
      expect(output).toMatch(/^long cut +[\d,]+ +176(?:\.\d)? MiB +/m);
      expect(output).not.toContain('\u001b');
      expectNothingLeft(demo);
    },
    DEMO_TIMEOUT_MS,
  );

  it.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)('stops and cleans up on %s', async (signal) => {
    const demo = startDemo();
    await until(() => demo.output().includes('through NBD ...'), 'something is being written');
    demo.kill(signal);
    expect(await demo.exited).toEqual({ status: 130, signal: null });
    expectNothingLeft(demo);
  });

  it('stops and cleans up while it makes what it is going to write', async () => {
    const demo = startDemo();
    await until(() => demo.output().includes('making a file system'), 'files are being made');
    demo.kill('SIGINT');
    expect(await demo.exited).toEqual({ status: 130, signal: null });
    expectNothingLeft(demo);
  });

  it('stops and cleans up when nobody reads what it prints any more', async () => {
    const demo = startDemo();
    await until(() => demo.output().includes('making a file system'), 'both processes run');
    demo.closeStdout();
    expect(await demo.exited).toEqual({ status: 130, signal: null });
    expect(demo.output()).toContain('nbdtwin: interrupted: the output was closed\n');
    expectNothingLeft(demo);
  });

  it('takes its processes along when it is killed', async () => {
    const demo = startDemo();
    await until(() => demo.output().includes('through NBD ...'), 'something is being written');
    demo.kill('SIGKILL');
    expect(await demo.exited).toEqual({ status: null, signal: 'SIGKILL' });
    await until(() => !childPids(demo.output()).some(isNbdtwin), 'both processes have ended');
  });

  it('fails and cleans up when one of its processes dies', async () => {
    const demo = startDemo();
    await until(() => demo.output().includes('through NBD ...'), 'something is being written');
    process.kill(childPids(demo.output())[1], 'SIGKILL');
    expect((await demo.exited).status).toBe(71);
    expect(demo.output()).toMatch(/nbdtwin: program-failed: the mirror ended/);
    expectNothingLeft(demo);
  });
});
