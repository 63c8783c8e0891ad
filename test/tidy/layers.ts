/** Who may import whom: the explicit table, and the check that reads it. @see docs/architecture.md */
import { posix } from 'node:path';
import { importsOf, type SourceFile } from './sources.ts';

/** `types`: these may be imported with `import type` only. */
interface Layer {
  readonly imports: readonly string[];
  readonly types?: readonly string[];
}

/** From the ground up. A folder of src that is not listed may not exist. */
export const LAYERS: Readonly<Record<string, Layer>> = {
  'nbd-protocol': { imports: [] },
  base: { imports: [] },
  secure: { imports: ['base'] },
  io: { imports: ['base', 'secure'] },
  volume: { imports: ['base', 'io'] },
  store: { imports: ['base', 'io'] },
  link: { imports: ['base', 'io'] },
  rescan: { imports: ['base', 'io', 'volume', 'store', 'link'] },
  primary: { imports: ['base', 'secure', 'io', 'volume', 'store', 'link', 'rescan'] },
  mirror: { imports: ['base', 'secure', 'io', 'volume', 'store', 'link', 'rescan'] },
  nbd: { imports: ['nbd-protocol', 'base', 'secure', 'io', 'volume'] },
  observe: {
    imports: ['base'],
    types: ['secure', 'io', 'volume', 'store', 'link', 'rescan', 'primary', 'mirror', 'nbd', 'control', 'daemon'],
  },
  control: { imports: ['base', 'io'] },
  daemon: {
    imports: [
      ...['nbd-protocol', 'base', 'secure', 'io', 'volume', 'store', 'link', 'rescan', 'primary', 'mirror', 'nbd'],
      ...['observe', 'control'],
    ],
  },
  cli: { imports: ['daemon', 'control', 'observe', 'base'] },
};

interface Door {
  readonly folders: readonly string[] | 'any';
  readonly why: string;
}

const PURE: Door = { folders: 'any', why: 'computes, touches nothing outside the process' };
const OUTSIDE: Door = { folders: ['io'], why: 'src/io is the only door to the outside' };

/** Modules from outside the repository, and the folders that may import them. One that is not listed may not be used. */
export const DOORS: Readonly<Record<string, Door>> = {
  'node:buffer': PURE,
  'node:events': PURE,
  'node:path': PURE,
  'node:url': PURE,
  'node:util': PURE,
  'node:zlib': { folders: ['base', 'store', 'link'], why: 'crc32, a pure function' },
  'node:fs': OUTSIDE,
  'node:fs/promises': OUTSIDE,
  'node:net': OUTSIDE,
  'node:tls': { folders: ['io', 'secure'], why: 'secure builds options and contexts, io opens connections' },
  'node:dns': OUTSIDE,
  'node:dns/promises': OUTSIDE,
  'node:child_process': OUTSIDE,
  'node:worker_threads': OUTSIDE,
  'node:timers/promises': { folders: ['io', 'daemon', 'cli'], why: 'real time: src/io, and what runs beside a person' },
  'node:perf_hooks': OUTSIDE,
  koffi: OUTSIDE,
  'node:crypto': { folders: ['secure', 'io'], why: 'scrypt is pure; digests and randomness belong to src/io' },
  'node:os': { folders: ['io', 'daemon', 'cli', 'observe'], why: 'facts about the machine, for people' },
  'node:process': {
    folders: ['io', 'daemon', 'cli', 'observe'],
    why: 'user, signals, arguments and exit status of the process',
  },
  commander: { folders: ['cli'], why: 'the command line' },
  pino: { folders: ['observe'], why: 'the implementation of base/log.ts' },
  'pino-pretty': { folders: ['observe'], why: 'logs on a terminal' },
};

/** One exception to the two tables, for one file. */
interface Exception {
  readonly file: string;
  readonly imports: string;
  readonly why: string;
}

export const EXCEPTIONS: readonly Exception[] = [
  { file: 'src/daemon/version.ts', imports: 'node:fs', why: 'reads the release from our own package.json' },
];

/** The folder of src, or the package, that a path of the repository belongs to. */
function layerOf(path: string): string | undefined {
  return /^(?:src|packages)\/([^/]+)\//.exec(path)?.[1];
}

/** What is wrong with the imports of these files, one sentence each; empty when all is well. */
export function findViolations(files: readonly SourceFile[], exceptions: readonly Exception[] = EXCEPTIONS): string[] {
  return files.flatMap((file) => {
    const from = layerOf(file.path);
    const layer = from === undefined ? undefined : LAYERS[from];
    if (from === undefined || layer === undefined) return [`${file.path}: its folder is not in the table of layers`];
    return importsOf(file).flatMap(({ specifier, typeOnly }) => {
      if (exceptions.some((exception) => exception.file === file.path && exception.imports === specifier)) return [];
      const problem = problemOf(file.path, from, layer, specifier, typeOnly);
      return problem === undefined ? [] : [`${file.path}: ${problem}`];
    });
  });
}

function problemOf(path: string, from: string, layer: Layer, specifier: string, typeOnly: boolean): string | undefined {
  const to = targetLayer(path, specifier);
  if (to === undefined) return externalProblem(from, specifier);
  if (to === 'outside') return `imports ${specifier}, which lies outside src`;
  if (specifier.startsWith('.') && !specifier.endsWith('.ts')) return `imports ${specifier} without its ending .ts`;
  if (to === from || layer.imports.includes(to)) return undefined;
  if (layer.types?.includes(to)) {
    return typeOnly ? undefined : `imports ${specifier}, though ${from} may import only types of ${to}`;
  }
  return `imports ${specifier}, though ${from} may not import ${to}`;
}

/** The layer that an import leads to; `outside` when it leaves src; undefined for a module from outside the repository. */
function targetLayer(path: string, specifier: string): string | undefined {
  if (specifier.startsWith('.')) return layerOf(posix.join(posix.dirname(path), specifier)) ?? 'outside';
  return specifier in LAYERS ? specifier : undefined;
}

function externalProblem(from: string, specifier: string): string | undefined {
  const door = Object.hasOwn(DOORS, specifier) ? DOORS[specifier] : undefined;
  if (from === 'nbd-protocol') return `imports ${specifier}, though nbd-protocol imports nothing`;
  if (door === undefined) return `imports ${specifier}, which is not in the table of doors`;
  if (door.folders === 'any' || door.folders.includes(from)) return undefined;
  return `imports ${specifier}, which only ${door.folders.join(', ')} may (${door.why})`;
}
