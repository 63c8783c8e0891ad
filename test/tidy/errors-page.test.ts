import { describe, expect, it } from 'vitest';
import { FAILURES } from '../../src/base/failure.ts';
import { errorsPage } from './errors-page.ts';
import { productFiles } from './sources.ts';

describe('failures', () => {
  it('are all listed in docs/errors.md as they are (npm run docs writes it anew)', async () => {
    await expect(errorsPage()).toMatchFileSnapshot('../../docs/errors.md');
    for (const code of Object.keys(FAILURES)) expect(errorsPage()).toContain(`| \`${code}\` |`);
  });

  it('are all in use: no code that nothing can report', () => {
    const sources = productFiles().filter(({ path }) => path !== 'src/base/failure.ts');
    const unused = Object.keys(FAILURES).filter((code) => !sources.some(({ text }) => text.includes(`'${code}'`)));
    expect(unused).toEqual([]);
  });
});
