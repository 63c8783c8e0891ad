#!/usr/bin/env node
/**
 * `npm run sim`: bundles the simulator with the product's sources (Node 20 runs no TypeScript) into a temporary folder,
 * and runs it.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'vite';

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/**
 * @param {string} folder where the bundle goes
 * @returns {Promise<string>} its path
 */
async function bundle(folder) {
  await build({
    root: ROOT,
    configFile: false,
    logLevel: 'warn',
    ssr: { noExternal: true, resolve: { conditions: ['source', 'node'] } },
    build: {
      ssr: 'test/sim/main.ts',
      outDir: folder,
      emptyOutDir: false,
      minify: false,
      sourcemap: true,
      target: 'node20',
      rolldownOptions: { output: { entryFileNames: 'sim.mjs' } },
    },
  });
  return join(folder, 'sim.mjs');
}

const folder = mkdtempSync(join(tmpdir(), 'nbdtwin-sim-'));
try {
  const path = await bundle(folder);
  process.setSourceMapsEnabled(true);
  const { main } = await import(pathToFileURL(path).href);
  process.exitCode = await main(process.argv.slice(2));
} finally {
  rmSync(folder, { recursive: true, force: true });
}
