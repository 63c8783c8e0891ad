#!/usr/bin/env node
/** `npm start`: installs and builds what is missing, then shows what nbdtwin does. */
import { spawn } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { prepare } from './prepare.mjs';

const PROGRAM = join(dirname(fileURLToPath(import.meta.url)), 'nbdtwin.js');

try {
  await prepare();
  const child = spawn(process.execPath, [PROGRAM, 'demo', ...process.argv.slice(2)], { stdio: 'inherit' });
  // A signal of the terminal reaches the demonstration too; it cleans up and ends, and then so do we.
  for (const signal of /** @type {const} */ (['SIGINT', 'SIGHUP'])) process.on(signal, () => {});
  process.on('SIGTERM', () => child.kill('SIGTERM'));
  process.exitCode = await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (status) => resolve(status ?? 1));
  });
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
