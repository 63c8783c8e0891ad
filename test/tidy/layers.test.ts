import { describe, expect, it } from 'vitest';
import { DOORS, EXCEPTIONS, findViolations, LAYERS } from './layers.ts';
import { importsOf, productFiles } from './sources.ts';

function violationsOf(path: string, text: string): string[] {
  return findViolations([{ path, text }], []);
}

describe('layers of the product', () => {
  const files = productFiles();

  it('imports only what the table allows', () => {
    expect(findViolations(files)).toEqual([]);
  });

  it.each(Object.keys(LAYERS))('%s has source files and imports, so that the check has something to say', (layer) => {
    const own = files.filter(
      (file) => file.path.startsWith(`src/${layer}/`) || file.path.startsWith(`packages/${layer}/`),
    );
    expect(own.length).toBeGreaterThan(0);
    // Those at the bottom import nothing, the others must be seen to import something.
    expect(own.flatMap(importsOf).length).toBeGreaterThanOrEqual(Math.min(1, LAYERS[layer]!.imports.length));
  });

  it('lists no exception that is not needed', () => {
    const needed = EXCEPTIONS.filter((exception) => {
      const file = files.find(({ path }) => path === exception.file);
      const others = EXCEPTIONS.filter((other) => other !== exception);
      return file !== undefined && findViolations([file], others).length > 0;
    });
    expect(needed).toEqual(EXCEPTIONS);
  });

  it('is a table without cycles: each layer imports only layers above it in the list', () => {
    const order = Object.keys(LAYERS);
    for (const [layer, { imports }] of Object.entries(LAYERS)) {
      for (const imported of imports) {
        expect(order.indexOf(imported), `${layer} imports ${imported}`).toBeGreaterThanOrEqual(0);
        expect(order.indexOf(imported), `${layer} imports ${imported}`).toBeLessThan(order.indexOf(layer));
      }
    }
  });

  it('has a reason for every door', () => {
    expect(Object.values(DOORS).filter((door) => door.why.length < 10)).toEqual([]);
  });
});

describe('the check of layers', () => {
  it.each([
    ['an import', `import { Session } from '../mirror/session.ts';`],
    ['an import of a type', `import type { Session } from '../mirror/session.ts';`],
    ['an import for its effect', `import '../mirror/session.ts';`],
    ['a re-export', `export { Session } from '../mirror/session.ts';`],
    ['a re-export of everything', `export * from '../mirror/session.ts';`],
    ['a dynamic import', `export const session = await import('../mirror/session.ts');`],
    ['an imported type expression', `export type Session = import('../mirror/session.ts').Session;`],
  ])('reports %s of a layer that is not allowed', (_, text) => {
    expect(violationsOf('src/primary/fixture.ts', text)).toEqual([
      'src/primary/fixture.ts: imports ../mirror/session.ts, though primary may not import mirror',
    ]);
  });

  it('accepts what the table allows', () => {
    expect(violationsOf('src/primary/fixture.ts', `import { assert } from '../base/assert.ts';`)).toEqual([]);
    expect(violationsOf('src/primary/fixture.ts', `import { join } from 'node:path';`)).toEqual([]);
    expect(violationsOf('src/io/fixture.ts', `import { open } from 'node:fs/promises';`)).toEqual([]);
    expect(violationsOf('src/nbd/fixture.ts', `import { decode } from 'nbd-protocol';`)).toEqual([]);
  });

  it('reports a door that is not open to a folder', () => {
    expect(violationsOf('src/volume/fixture.ts', `import { openSync } from 'node:fs';`)).toEqual([
      'src/volume/fixture.ts: imports node:fs, which only io may (src/io is the only door to the outside)',
    ]);
  });

  it('reports a module that no table lists', () => {
    expect(violationsOf('src/io/fixture.ts', `import leftPad from 'left-pad';`)).toEqual([
      'src/io/fixture.ts: imports left-pad, which is not in the table of doors',
    ]);
    expect(violationsOf('src/io/fixture.ts', `import fs from 'fs';`)).toHaveLength(1);
  });

  it('reports values where only types are allowed', () => {
    const from = `from '../primary/status.ts';`;
    expect(violationsOf('src/observe/fixture.ts', `import type { PrimaryStatus } ${from}`)).toEqual([]);
    expect(violationsOf('src/observe/fixture.ts', `import { DIFFERING_RANGES_MAX } ${from}`)).toHaveLength(1);
    expect(violationsOf('src/observe/fixture.ts', `import { type PrimaryStatus } ${from}`)).toHaveLength(1);
  });

  it('reports any module from outside in nbd-protocol', () => {
    expect(violationsOf('packages/nbd-protocol/src/fixture.ts', `import { Buffer } from 'node:buffer';`)).toHaveLength(
      1,
    );
    expect(violationsOf('packages/nbd-protocol/src/fixture.ts', `import '../../../src/base/assert.ts';`)).toHaveLength(
      1,
    );
  });

  it('reports an import that leaves src, and one without its ending', () => {
    expect(violationsOf('src/base/fixture.ts', `import '../../test/support/peers.ts';`)).toHaveLength(1);
    expect(violationsOf('src/base/fixture.ts', `import { assert } from './assert';`)).toHaveLength(1);
  });

  it('reports a folder that the table does not know', () => {
    expect(violationsOf('src/utils/fixture.ts', '')).toEqual([
      'src/utils/fixture.ts: its folder is not in the table of layers',
    ]);
  });

  it('lets an exception pass for its own file only', () => {
    const text = `import { spawn } from 'node:child_process';`;
    const exceptions = [{ file: 'src/cli/one.ts', imports: 'node:child_process', why: 'starts a program' }];
    expect(findViolations([{ path: 'src/cli/one.ts', text }], exceptions)).toEqual([]);
    expect(findViolations([{ path: 'src/cli/two.ts', text }], exceptions)).toHaveLength(1);
  });
});
