#!/usr/bin/env node
/**
 * `npm run sim`: bundles the simulator with the product's sources (Node 20 runs no TypeScript) into a temporary folder,
 * and runs it. With `--plant NAME` a bug is planted on the way; with `--planted` that is done for every bug of the table,
 * each in a process of its own, and the table is printed: bug, seeds needed until it was found.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build, createServer } from 'vite';

const HERE = dirname(fileURLToPath(import.meta.url));
const ROOT = dirname(dirname(HERE));
/** Seeds that a planted bug may take. */
const SEEDS_MAX = 300;

/** @typedef {import('./planted-bugs.ts').PlantedBug} PlantedBug */

/**
 * @param {string} folder where the bundle goes
 * @param {PlantedBug | undefined} bug
 * @returns {Promise<string>} its path
 */
async function bundle(folder, bug) {
  const { plant } = await table();
  const missing = new Set(bug?.edits.map(({ file }) => file));
  /** @type {import('vite').Plugin} */
  const planting = {
    name: 'plant',
    enforce: 'pre',
    transform(source, id) {
      const file = relative(ROOT, id);
      if (bug === undefined || !missing.delete(file)) return undefined;
      return { code: plant(bug, file, source), map: null };
    },
  };
  await build({
    root: ROOT,
    configFile: false,
    logLevel: 'warn',
    plugins: [planting],
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
  if (missing.size > 0)
    throw new Error(`not part of the simulation, so nothing was planted: ${[...missing].join(' ')}`);
  return join(folder, 'sim.mjs');
}

/** @returns {Promise<typeof import('./planted-bugs.ts')>} */
async function table() {
  const server = await createServer({
    root: ROOT,
    configFile: false,
    logLevel: 'error',
    appType: 'custom',
    server: { middlewareMode: true, watch: null, ws: false },
    optimizeDeps: { noDiscovery: true },
  });
  try {
    return /** @type {typeof import('./planted-bugs.ts')} */ (
      await server.ssrLoadModule(join(HERE, 'planted-bugs.ts'))
    );
  } finally {
    await server.close();
  }
}

/**
 * @param {string[]} args
 * @param {string} name
 * @returns {string[]} the arguments without that option
 */
function without(args, name) {
  return args.filter((argument) => argument !== name);
}

/**
 * Finds every bug of the table, one after the other. Resolves with the exit status.
 * @param {string[]} args
 */
async function findAll(args) {
  const { PLANTED_BUGS } = await table();
  let missed = 0;
  for (const bug of PLANTED_BUGS) {
    const own = [fileURLToPath(import.meta.url), '--plant', bug.name, '--quiet', ...args];
    const defaults = args.includes('--seed') ? [] : ['--seed', '1', '--count', String(SEEDS_MAX)];
    const run = spawnSync(process.execPath, [...own, ...defaults], { encoding: 'utf8', maxBuffer: 2 ** 28 });
    const found = /^found after (\d+) seeds: (.*)$/m.exec(run.stdout);
    if (found === null) missed += 1;
    const result = found === null ? 'NOT FOUND' : `${found[1]} seeds: ${found[2]?.slice(0, 160)}`;
    process.stdout.write(`${bug.name}: ${result}\n`);
    if (found === null && run.stderr !== '') process.stdout.write(run.stderr);
  }
  return missed === 0 ? 0 : 1;
}

/** @param {string[]} args */
async function simulate(args) {
  const at = args.indexOf('--plant');
  const name = at < 0 ? undefined : args[at + 1];
  const rest = at < 0 ? args : [...args.slice(0, at), ...args.slice(at + 2)];
  const bug = name === undefined ? undefined : (await table()).PLANTED_BUGS.find((one) => one.name === name);
  if (name !== undefined && bug === undefined) throw new Error(`no planted bug has the name ${name}`);
  const folder = mkdtempSync(join(tmpdir(), 'nbdtwin-sim-'));
  try {
    const path = await bundle(folder, bug);
    process.setSourceMapsEnabled(true);
    const { main } = await import(pathToFileURL(path).href);
    return await main(rest);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const args = process.argv.slice(2);
process.exitCode = args.includes('--planted') ? await findAll(without(args, '--planted')) : await simulate(args);
