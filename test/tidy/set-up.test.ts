import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { isInstalled } from '../../bin/prepare.mjs';
import { missingPackages } from '../support/install-peers.ts';
import { missingNeeds, programPath } from '../support/peers.ts';
import { ROOT } from './sources.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'nbdtwin-tidy-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

function writeFile(path: string, content: string): void {
  mkdirSync(join(folder, path, '..'), { recursive: true });
  writeFileSync(join(folder, path), content);
}

function writeLock(path: string, packages: Record<string, object>): void {
  writeFile(path, JSON.stringify({ packages }));
}

describe('prepare', () => {
  const wanted = {
    '': { name: 'root' },
    'packages/own': { version: '1.0.0' },
    'node_modules/a': { version: '1.0.0', integrity: 'sha512-a' },
    'node_modules/b-darwin': { version: '2.0.0', optional: true },
  };

  it('installs when nothing is installed', () => {
    writeLock('package-lock.json', wanted);
    expect(isInstalled(folder)).toBe(false);
  });

  it('leaves an installation alone that holds what the lock file asks for, absent optional packages aside', () => {
    writeLock('package-lock.json', wanted);
    writeLock('node_modules/.package-lock.json', { 'node_modules/a': wanted['node_modules/a'] });
    expect(isInstalled(folder)).toBe(true);
  });

  it('installs when a package is missing or of another version', () => {
    writeLock('package-lock.json', wanted);
    writeLock('node_modules/.package-lock.json', {});
    expect(isInstalled(folder)).toBe(false);
    writeLock('node_modules/.package-lock.json', { 'node_modules/a': { version: '0.9.0', integrity: 'sha512-a' } });
    expect(isInstalled(folder)).toBe(false);
  });
});

describe('package-lock.json', () => {
  it('holds all that its packages name, for every platform: npm ci refuses a lock file that does not', () => {
    const { packages } = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8'));
    const isLocked = (from: string, name: string): boolean =>
      `${from}/node_modules/${name}`.replace(/^\//, '') in packages ||
      (from !== '' && isLocked(from.slice(0, Math.max(0, from.lastIndexOf('/node_modules/'))), name));
    const missing = Object.entries<{ dependencies?: object; optionalDependencies?: object }>(packages).flatMap(
      ([path, { dependencies, optionalDependencies }]) =>
        Object.keys({ ...dependencies, ...optionalDependencies }).filter((name) => !isLocked(path, name)),
    );
    expect(Object.keys(packages).length).toBeGreaterThan(50);
    expect(missing).toEqual([]);
  });
});

describe('peer programs', () => {
  it('are asked for by package, each package once', () => {
    expect(missingPackages(() => true)).toEqual([]);
    expect(missingPackages((program) => !['nbdinfo', 'nbdcopy', 'fio'].includes(program))).toEqual([
      'libnbd-bin',
      'fio',
    ]);
  });

  it('that are missing are named with the package that brings them', () => {
    const path = process.env['PATH'];
    try {
      process.env['PATH'] = folder;
      expect(missingNeeds(['nbdcopy'])).toBe('nbdcopy is not installed (Debian: libnbd-bin)');
      writeFileSync(join(folder, 'nbdcopy'), '#!/bin/sh\n', { mode: 0o755 });
      expect(missingNeeds(['nbdcopy'])).toBeUndefined();
      expect(programPath('nbdcopy')).toBe(join(folder, 'nbdcopy'));
    } finally {
      process.env['PATH'] = path;
    }
  });
});

describe('a run of the tests', () => {
  beforeEach(() => symlinkSync(join(ROOT, 'node_modules'), join(folder, 'node_modules')));

  /** Runs vitest on a suite of its own with the reporter of this repository. */
  function run(suite: string, ci: boolean) {
    writeFile('fixture.test.ts', `import { describe, expect, it } from 'vitest';\n${suite}`);
    const summaryPath = join(folder, 'summary.json');
    const vitest = join(ROOT, 'node_modules/vitest/vitest.mjs');
    const reporter = join(ROOT, 'test/support/reporter.ts');
    const result = spawnSync(process.execPath, [vitest, 'run', '--root', folder, `--reporter=${reporter}`], {
      cwd: ROOT,
      encoding: 'utf8',
      env: { PATH: process.env['PATH'], CI: String(ci), NBDTWIN_TEST_SUMMARY: summaryPath },
    });
    return { status: result.status, stderr: result.stderr, summary: JSON.parse(readFileSync(summaryPath, 'utf8')) };
  }

  it('passes when every test passes', () => {
    const { status, summary } = run(`it('runs', () => expect(1).toBe(1));`, true);
    expect(summary).toEqual({ passed: 1, failed: 0, skipped: 0 });
    expect(status).toBe(0);
  });

  it('accepts a skipped test at home and fails on it with CI=true, naming it', () => {
    const suite = `it('runs', () => expect(1).toBe(1));\ndescribe.skip('fio [skipped: no fio]', () => { it('verifies', () => {}); });`;
    const atHome = run(suite, false);
    expect(atHome.summary).toEqual({ passed: 1, failed: 0, skipped: 1 });
    expect(atHome.status).toBe(0);
    const underCi = run(suite, true);
    expect(underCi.summary).toEqual({ passed: 1, failed: 0, skipped: 1 });
    expect(underCi.status).toBe(1);
    expect(underCi.stderr).toContain('SKIPPED fio [skipped: no fio] > verifies');
  });

  it('counts a suite that cannot be loaded, and an error outside any test, as failed', () => {
    expect(run(`throw new Error('broken');`, false).summary).toEqual({ passed: 0, failed: 1, skipped: 0 });
    const stray = run(`it('runs', () => { void Promise.reject(new Error('stray')); });`, false);
    expect(stray.summary).toEqual({ passed: 1, failed: 1, skipped: 0 });
    expect(stray.status).toBe(1);
  });
});

describe('the linter', () => {
  it('knows types: it finds a promise that nobody waits for', () => {
    writeFile('probe.ts', 'export function f(g: () => void | Promise<void>): void {\n  g();\n}\n');
    const oxlint = join(ROOT, 'node_modules/.bin/oxlint');
    const args = ['--type-aware', '--config', join(ROOT, '.oxlintrc.json')];
    const result = spawnSync(oxlint, args, { cwd: folder, encoding: 'utf8' });
    expect(result.stdout).toContain('no-floating-promises');
    expect(result.status).toBe(1);
  });
});
