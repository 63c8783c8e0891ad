#!/usr/bin/env node
/**
 * Builds what is missing and runs the benchmarks: the comparison with other servers, a scenario when one is named first,
 * or with --micro single parts.
 */
import { spawn, spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { prepare } from './prepare.mjs';

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));

await prepare().catch((error) => {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exit(1);
});
const build = spawnSync(process.execPath, [join(ROOT, 'node_modules/typescript/bin/tsc'), '-b', join(ROOT, 'bench')], {
  stdio: ['ignore', 'inherit', 'inherit'],
});
if (build.status !== 0) process.exit(1);

const args = process.argv.slice(2);
const named = args[0] !== undefined && !args[0].startsWith('-');
const suite = args.includes('--micro') ? 'micro' : named ? 'scenarios' : 'system';
const child = spawn(
  process.execPath,
  [join(ROOT, 'dist-bench', suite, 'main.js'), ...args.filter((argument) => argument !== '--micro')],
  { stdio: 'inherit' },
);
for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM'])) process.on(signal, () => child.kill(signal));
child.once('exit', (code) => {
  process.exitCode = code ?? 1;
});
