#!/usr/bin/env node
/**
 * Runs the tests: installs and builds what is missing, then vitest with the arguments given here. The last line says
 * how many passed and failed.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { prepare } from './prepare.mjs';

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));

/**
 * Runs vitest and resolves with its exit status.
 * @param {string[]} args
 * @param {string} summaryPath where reporter.ts leaves the counts
 * @returns {Promise<number>}
 */
function vitest(args, summaryPath) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [join(ROOT, 'node_modules/vitest/vitest.mjs'), 'run', ...args], {
      cwd: ROOT,
      stdio: ['ignore', 'inherit', 'inherit'],
      env: { ...process.env, NBDTWIN_TEST_SUMMARY: summaryPath },
    });
    for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM'])) process.once(signal, () => child.kill(signal));
    child.once('error', reject);
    child.once('exit', (code) => resolve(code ?? 1));
  });
}

const folder = mkdtempSync(join(tmpdir(), 'nbdtwin-test-'));
const summaryPath = join(folder, 'summary.json');
let summary = { passed: 0, failed: 0, skipped: 0 };
let status = 1;
try {
  await prepare();
  status = await vitest(process.argv.slice(2), summaryPath);
  summary = JSON.parse(readFileSync(summaryPath, 'utf8'));
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
} finally {
  rmSync(folder, { recursive: true, force: true });
}

// A run that fails as a whole (the build, no tests found, tests skipped under CI) counts as one failure.
let failed = summary.failed === 0 && status !== 0 ? 1 : summary.failed;
// .ci/run has already run the checks and leaves the closing line to us.
if (process.env['NBDTWIN_FAILED_CHECKS'] !== undefined) failed += 1;

const skipped = summary.skipped > 0 ? `, ${summary.skipped} skipped` : '';
process.stdout.write(`${summary.passed} passed, ${failed} failed${skipped}\n`);
process.exitCode = failed > 0 ? 1 : 0;
