/** The repository's own source text, read and parsed for the tests of its form. */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseSync, Visitor, type VisitorObject } from 'oxc-parser';

export const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

export interface SourceFile {
  /** Relative to the repository, with forward slashes. */
  readonly path: string;
  readonly text: string;
}

export interface Import {
  readonly specifier: string;
  /** Leaves nothing behind in the JavaScript. */
  readonly typeOnly: boolean;
}

const NOT_OURS = new Set(['node_modules', 'dist', 'dist-bench', 'coverage', '.git', '.cache']);

/** Files below a folder of the repository whose name ends in one of `endings`, in order; a missing folder has none. */
export function filesBelow(folder: string, endings: readonly string[]): SourceFile[] {
  return walk(join(ROOT, folder))
    .filter((path) => endings.some((ending) => path.endsWith(ending)))
    .map((path) => ({ path: relative(ROOT, path), text: readFileSync(path, 'utf8') }));
}

function walk(folder: string): string[] {
  let entries: ReturnType<typeof readEntries>;
  try {
    entries = readEntries(folder);
  } catch {
    return [];
  }
  return entries.flatMap((entry) => {
    if (NOT_OURS.has(entry.name)) return [];
    const path = join(folder, entry.name);
    return entry.isDirectory() ? walk(path) : [path];
  });
}

function readEntries(folder: string) {
  return readdirSync(folder, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** TypeScript of the product: src and the sources of the packages. */
export function productFiles(): SourceFile[] {
  return [...filesBelow('src', ['.ts']), ...packageFiles()];
}

function packageFiles(): SourceFile[] {
  return filesBelow('packages', ['.ts']).filter((file) => /^packages\/[^/]+\/src\//.test(file.path));
}

/** TypeScript and JavaScript that is ours, tests and tools included. */
export function allCode(): SourceFile[] {
  return ['bin', 'src', 'packages', 'test', 'bench'].flatMap((folder) => filesBelow(folder, ['.ts', '.js', '.mjs']));
}

/** Visits the syntax tree of a file; a file that does not parse is an error. */
export function visit(file: SourceFile, visitor: VisitorObject): void {
  const result = parseSync(file.path, file.text);
  if (result.errors.length > 0) throw new Error(`${file.path}: ${result.errors[0]!.message}`);
  new Visitor(visitor).visit(result.program);
}

/** Everything a file imports or re-exports, `import()` and `import('x').Type` included. */
export function importsOf(file: SourceFile): Import[] {
  const imports: Import[] = [];
  visit(file, {
    ImportDeclaration(node) {
      imports.push({ specifier: node.source.value, typeOnly: node.importKind === 'type' });
    },
    ExportNamedDeclaration(node) {
      if (node.source !== null) imports.push({ specifier: node.source.value, typeOnly: node.exportKind === 'type' });
    },
    ExportAllDeclaration(node) {
      imports.push({ specifier: node.source.value, typeOnly: node.exportKind === 'type' });
    },
    ImportExpression(node) {
      const specifier = node.source.type === 'Literal' ? node.source.value : undefined;
      imports.push({ specifier: typeof specifier === 'string' ? specifier : '(computed)', typeOnly: false });
    },
    TSImportType(node) {
      imports.push({ specifier: node.source.value, typeOnly: true });
    },
  });
  return imports;
}

/** The line, counted from 1, of an offset in a file. */
export function lineAt(file: SourceFile, offset: number): number {
  return file.text.slice(0, offset).split('\n').length;
}
