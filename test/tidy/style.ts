/** Rules of form that no linter knows. Each returns what is wrong, one sentence each; empty when all is well. */
import { lineAt, type SourceFile, visit } from './sources.ts';

/** Lines of a source file of the product. Half of them should be under 180. */
export const FILE_LINES_MAX = 400;

export function findLongFiles(files: readonly SourceFile[]): string[] {
  return files.flatMap((file) => {
    const lines = lineAt(file, file.text.trimEnd().length);
    return lines > FILE_LINES_MAX
      ? [`${file.path}: ${lines} lines, more than ${FILE_LINES_MAX}: split it by noun`]
      : [];
  });
}

/** A note of work to do is worth something only where it is tracked: `TODO(#12): ...`. */
export function findUntrackedNotes(files: readonly SourceFile[]): string[] {
  return files.flatMap((file) =>
    [...file.text.matchAll(/\b(?:TODO|FIXME|XXX|HACK)\b(?!\(#\d+\))/g)].map(
      (match) => `${file.path}:${lineAt(file, match.index)}: ${match[0]} without an issue, as in ${match[0]}(#12)`,
    ),
  );
}

/** `it.only` and the like would let a run pass that tested next to nothing. */
export function findFocusedTests(files: readonly SourceFile[]): string[] {
  return files.flatMap((file) => {
    const found: string[] = [];
    visit(file, {
      MemberExpression(node) {
        if (node.property.type === 'Identifier' && node.property.name === 'only' && isTestFunction(node.object)) {
          found.push(`${file.path}:${lineAt(file, node.start)}: a focused test`);
        }
      },
    });
    return found;
  });
}

function isTestFunction(node: { type: string; name?: unknown; object?: unknown }): boolean {
  if (node.type === 'Identifier') return ['it', 'test', 'describe', 'suite', 'bench'].includes(String(node.name));
  if (node.type !== 'MemberExpression') return false;
  return isTestFunction(node.object as { type: string });
}

/** Globals through which time, randomness and the process come in; only the outermost folders may name them. */
const WORLD_OBJECTS = new Set(['Date', 'performance', 'process', 'crypto']);
const WORLD_FUNCTIONS = new Set(['setTimeout', 'setInterval', 'setImmediate', 'fetch', 'Date']);

interface Exception {
  readonly file: string;
  readonly uses: string;
  readonly why: string;
}

export const HIDDEN_INPUT_EXCEPTIONS: readonly Exception[] = [
  {
    file: 'src/nbd/replies.ts',
    uses: 'setImmediate',
    why: 'gathers the answers of one turn of the event loop, however long that takes',
  },
];

/**
 * Uses of time, randomness and the process that do not come in as a parameter: a run with the same seed could then not
 * be replayed.
 */
export function findHiddenInputs(
  files: readonly SourceFile[],
  exceptions: readonly Exception[] = HIDDEN_INPUT_EXCEPTIONS,
): string[] {
  return files.flatMap((file) => {
    const found: string[] = [];
    const report = (name: string, offset: number) => {
      if (exceptions.some((exception) => exception.file === file.path && exception.uses === name)) return;
      found.push(`${file.path}:${lineAt(file, offset)}: uses ${name}; take it from the World instead`);
    };
    visit(file, {
      MemberExpression(node) {
        if (node.object.type !== 'Identifier') return;
        const name = node.object.name;
        const property = node.property.type === 'Identifier' ? node.property.name : '';
        if (WORLD_OBJECTS.has(name) || (name === 'Math' && property === 'random')) {
          report(`${name}.${property}`, node.start);
        }
      },
      CallExpression(node) {
        if (node.callee.type === 'Identifier' && WORLD_FUNCTIONS.has(node.callee.name)) {
          report(node.callee.name, node.start);
        }
      },
      NewExpression(node) {
        if (node.callee.type === 'Identifier' && node.callee.name === 'Date') report('new Date', node.start);
      },
    });
    return found;
  });
}
