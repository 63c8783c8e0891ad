import { spawnSync } from 'node:child_process';
import { randomBytes, scryptSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { newSecretLine, parseSecretFile } from '../../../src/secure/secret-file.ts';
import { needPrograms } from '../../support/peers.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';

const HEX = '00112233445566778899aabbccddeeff';

describe('a secret file of key lines', () => {
  it('holds identities and keys, in order, with comments and empty lines between', async () => {
    const text = `# keys of the mirror\n\nnbdtwin:${HEX}\r\n  site-a:${HEX.toUpperCase()}${HEX}  \n\n# end`;
    expect(await parseSecretFile(text)).toEqual([
      { identity: 'nbdtwin', key: Buffer.from(HEX, 'hex') },
      { identity: 'site-a', key: Buffer.from(HEX + HEX, 'hex') },
    ]);
  });

  it.each([
    ['an empty file', '', 'secret-missing'],
    ['comments alone', '# nothing\n\n', 'secret-missing'],
    ['a key under 128 bits', `a:${HEX.slice(2)}`, 'secret-too-short'],
    ['no key', 'a:', 'secret-too-short'],
    ['an odd number of digits', `a:${HEX}0`, 'secret-malformed'],
    ['what is not hex', `a:${'xyz'.repeat(20)}`, 'secret-malformed'],
    ['a key over 512 bits', `a:${'00'.repeat(65)}`, 'secret-malformed'],
    ['no identity', `:${HEX}`, 'secret-malformed'],
    ['an identity with a space', `a b:${HEX}`, 'secret-malformed'],
    ['an identity with a control character', `a\u0007b:${HEX}`, 'secret-malformed'],
    ['an identity over 128 characters', `${'a'.repeat(129)}:${HEX}`, 'secret-malformed'],
    ['an identity twice', `a:${HEX}\na:${HEX}`, 'secret-malformed'],
    ['a bare secret beside a key line', `a:${HEX}\ncorrect horse battery staple`, 'secret-malformed'],
    ['two bare secrets', 'correct horse battery staple\ncorrect horse battery staple', 'secret-malformed'],
    ['too many keys', Array.from({ length: 1001 }, (_, index) => `i${index}:${HEX}`).join('\n'), 'secret-malformed'],
    ['too many bytes', `#${'x'.repeat(256 * 1024)}`, 'secret-malformed'],
  ])('refuses %s', async (_name, text, code) => {
    await expect(parseSecretFile(text)).rejects.toMatchObject({ code });
  });

  it('takes as many keys as the limit says', async () => {
    const text = Array.from({ length: 1000 }, (_, index) => `i${index}:${HEX}`).join('\n');
    expect(await parseSecretFile(text)).toHaveLength(1000);
  });

  it.each([`a:${'5ec2e7'.repeat(5)}`, `a:${'5ec2e7'.repeat(7)}5`, '5ec2e7', `a:5ec2e7-${HEX}`])(
    'never repeats a secret in a message: %j',
    async (text) => {
      await expect(parseSecretFile(text)).rejects.toThrow(/^(?!.*5ec2e7)/s);
    },
  );
});

describe('a bare secret', () => {
  it('is stretched with scrypt, by the parameters of the protocol', async () => {
    const [key, ...more] = await parseSecretFile('  correct horse battery staple\n');
    expect(more).toEqual([]);
    expect(key?.identity).toBe('nbdtwin');
    const expected = scryptSync('correct horse battery staple', 'nbdtwin secret 1', 32, {
      N: 131_072,
      r: 8,
      p: 1,
      maxmem: 256 * 1024 * 1024,
    });
    expect(Buffer.from(key!.key).toString('hex')).toBe(expected.toString('hex'));
  });

  it('is refused when it is short or endless', async () => {
    await expect(parseSecretFile('x'.repeat(19))).rejects.toMatchObject({ code: 'secret-too-short' });
    await expect(parseSecretFile('😀'.repeat(10))).rejects.toMatchObject({ code: 'secret-too-short' });
    await expect(parseSecretFile('x'.repeat(1025))).rejects.toMatchObject({ code: 'secret-malformed' });
  });
});

describe('a new secret', () => {
  it('has 256 bits and is a line that a secret file may hold', async () => {
    const random = randomBytes(32);
    const line = newSecretLine(random);
    expect(line).toMatch(/^nbdtwin:[0-9a-f]{64}$/);
    expect(await parseSecretFile(`${line}\n`)).toEqual([{ identity: 'nbdtwin', key: random }]);
    expect(() => newSecretLine(randomBytes(16))).toThrow('256 bits');
  });
});

needPrograms(
  'a file that psktool wrote',
  'psktool',
)(() => {
  it('is read as it is', async () => {
    const path = join(temporaryFolder(), 'keys.psk');
    for (const user of ['alice', 'bob@example']) {
      expect(spawnSync('psktool', ['-u', user, '-p', path], { encoding: 'utf8' }).status).toBe(0);
    }
    const keys = await parseSecretFile(readFileSync(path, 'utf8'));
    expect(keys.map((key) => key.identity)).toEqual(['alice', 'bob@example']);
    for (const { key } of keys) expect(key.length).toBe(32);
  });
});
