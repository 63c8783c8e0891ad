import { posix } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseExportName } from '../../../src/base/export-name.ts';
import { isFailure } from '../../../src/base/failure.ts';

const refused = expect.objectContaining({ code: 'name-invalid' });

describe('the name of an export', () => {
  it.each([
    'disk',
    'a',
    '-',
    '_',
    '0',
    'db-1_data.v2',
    'site/db',
    'a/b/c',
    'lock',
    'a/lock',
    'img',
    'twin',
    'a.imgs',
    'a..b',
    'x'.repeat(240),
    `${'x'.repeat(127)}/${'y'.repeat(127)}`,
  ])('takes %j', (name) => {
    expect(parseExportName(name)).toBe(name);
  });

  it.each([
    '',
    '/',
    '.',
    '..',
    '../x',
    'a/../b',
    'a/..',
    '/a',
    'a/',
    'a//b',
    '.hidden',
    'a/.b',
    'a.img',
    'a.twin',
    'a.img/b',
    'a.img.twin',
    'b/a.twin/c',
    'a b',
    'a\\b',
    'a\0',
    'a\n',
    'a:b',
    'ä',
    '~',
    '%2e%2e',
    'lock/x',
    'x'.repeat(241),
    `${'x'.repeat(127)}/${'y'.repeat(128)}`,
  ])('refuses %j', (name) => {
    expect(() => parseExportName(name)).toThrow(refused);
  });

  it('never leads out of the directory, and never to what stands beside an image', () => {
    const pieces = fc.constantFrom('a', 'B', '9', '.', '..', '/', '-', '_', '.img', '.twin', 'lock', '\\', '\0', ' ');
    let accepted = 0;
    fc.assert(
      fc.property(fc.array(pieces, { maxLength: 8 }), (parts) => {
        const name = parts.join('');
        let parsed: string;
        try {
          parsed = parseExportName(name);
        } catch (error) {
          return isFailure(error, 'name-invalid');
        }
        accepted += 1;
        const path = posix.join('/mirrors', `${parsed}.img`);
        return path === `/mirrors/${name}.img` && !/\.(img|twin)\//.test(path) && !path.startsWith('/mirrors/lock/');
      }),
      { numRuns: 1000 },
    );
    expect(accepted).toBeGreaterThan(10);
  });

  it('keeps control characters of a name out of its message', () => {
    expect(() => parseExportName('\u001b[2J')).toThrow(/^[ -~]*$/);
  });
});
