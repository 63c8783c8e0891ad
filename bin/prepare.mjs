#!/usr/bin/env node
/** Makes a checkout ready to run: installs what package-lock.json asks for and builds dist. Does nothing that is done. */
import { spawnSync } from 'node:child_process';
import { readFileSync, realpathSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));

/** @typedef {{ version?: string, integrity?: string, resolved?: string, optional?: boolean }} LockedPackage */

/**
 * The `packages` of a lock file, or undefined when there is none that can be read.
 * @param {string} path
 * @returns {Record<string, LockedPackage> | undefined}
 */
function lockedPackages(path) {
  try {
    return JSON.parse(readFileSync(path, 'utf8')).packages;
  } catch {
    return undefined;
  }
}

/**
 * True when node_modules holds what package-lock.json asks for. Compares contents, because a checkout gives every file
 * a new time; optional packages may be absent (binaries for other platforms).
 * @param {string} root
 */
export function isInstalled(root) {
  const wanted = lockedPackages(join(root, 'package-lock.json'));
  const present = lockedPackages(join(root, 'node_modules/.package-lock.json'));
  if (wanted === undefined || present === undefined) return false;
  return Object.entries(wanted).every(([path, locked]) => {
    if (!path.startsWith('node_modules/')) return true;
    const installed = present[path];
    if (installed === undefined) return locked.optional === true;
    return ['version', 'integrity', 'resolved'].every(
      (key) => Reflect.get(installed, key) === Reflect.get(locked, key),
    );
  });
}

/**
 * Runs a step in the checkout. Its output goes to stderr, so that stdout stays that of the command which follows; when
 * `quiet` it is shown only if the step fails.
 * @param {string} what
 * @param {string} command
 * @param {string[]} args
 * @param {boolean} quiet
 */
function step(what, command, args, quiet) {
  if (!quiet) process.stderr.write(`${what}\n`);
  const result = spawnSync(command, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'pipe'], encoding: 'utf8' });
  if (result.error !== undefined) throw new Error(`${what}: ${result.error.message}`, { cause: result.error });
  if (result.status !== 0) {
    throw new Error(`${what}: failed (${result.signal ?? `exit ${result.status}`})\n${result.stdout}${result.stderr}`);
  }
}

/**
 * Installs dependencies if they are missing or out of date, then builds. Throws an Error with the output of the step
 * that failed.
 * @param {{ quiet?: boolean }} [options] `quiet`: say nothing unless a step fails
 */
export async function prepare({ quiet = false } = {}) {
  if (!isInstalled(ROOT)) {
    step('Installing dependencies (npm ci) ...', 'npm', ['ci', '--include=dev', '--no-audit', '--no-fund'], quiet);
  }
  step('Building ...', process.execPath, [join(ROOT, 'node_modules/typescript/bin/tsc'), '-b'], quiet);
}

if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  try {
    await prepare({ quiet: process.argv.includes('--quiet') });
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    process.exitCode = 1;
  }
}
