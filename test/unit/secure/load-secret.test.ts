import { describe, expect, it } from 'vitest';
import { loadKeyFile, loadSecret, type SecretReader } from '../../../src/secure/load-secret.ts';

const HEX = '00112233445566778899aabbccddeeff';
const KEYS = [{ identity: 'a', key: Buffer.from(HEX, 'hex') }];

function reader(mode: number, text = `a:${HEX}`): SecretReader {
  return { readSecret: (path) => Promise.resolve(path === 'there' ? { text, mode: 0o100000 | mode } : undefined) };
}

describe('loading a secret', () => {
  it.each([0o600, 0o400, 0o700])('takes a file of mode %o', async (mode) => {
    expect(await loadSecret(reader(mode), { file: 'there' })).toEqual(KEYS);
  });

  it.each([0o640, 0o604, 0o620, 0o602, 0o610, 0o666])('refuses a file of mode %o, whatever it holds', async (mode) => {
    const error = expect.objectContaining({
      code: 'secret-exposed',
      message: expect.stringContaining(mode.toString(8)) as unknown,
    });
    await expect(loadSecret(reader(mode), { file: 'there' })).rejects.toEqual(error);
    await expect(loadSecret(reader(mode, 'garbage:'), { file: 'there' })).rejects.toEqual(error);
  });

  it('takes keys of NBD clients from lines alone: none of them could use a bare secret', async () => {
    expect(await loadKeyFile(reader(0o600), 'there')).toEqual(KEYS);
    await expect(loadKeyFile(reader(0o644), 'there')).rejects.toMatchObject({ code: 'secret-exposed' });
    await expect(loadKeyFile(reader(0o600, '# none\n'), 'there')).rejects.toMatchObject({ code: 'secret-missing' });
    const bare = reader(0o600, 'correct horse battery staple\n');
    expect(await loadSecret(bare, { file: 'there' })).toHaveLength(1);
    await expect(loadKeyFile(bare, 'there')).rejects.toMatchObject({
      code: 'secret-malformed',
      message: expect.stringMatching(/^there: line 1 of the secret file is not identity:hexkey/) as unknown,
    });
  });

  it('tells a missing file, and which file is wrong', async () => {
    await expect(loadSecret(reader(0o600), { file: 'gone' })).rejects.toMatchObject({ code: 'secret-missing' });
    await expect(loadSecret(reader(0o600, 'a:00'), { file: 'there' })).rejects.toMatchObject({
      code: 'secret-too-short',
      message: expect.stringMatching(/^there: line 1/) as unknown,
    });
  });

  it('takes the flag, else the environment, and a file before the environment', async () => {
    const environment = `e:${HEX}`;
    const identity = async (sources: Parameters<typeof loadSecret>[1]) =>
      (await loadSecret(reader(0o600), sources))[0]?.identity;
    expect(await identity({ flag: `f:${HEX}`, environment })).toBe('f');
    expect(await identity({ environment })).toBe('e');
    expect(await identity({ file: 'there', environment })).toBe('a');
  });

  it('refuses to guess: no source, an empty one, or both options', async () => {
    await expect(loadSecret(reader(0o600), {})).rejects.toMatchObject({ code: 'secret-missing' });
    await expect(loadSecret(reader(0o600), { environment: '' })).rejects.toMatchObject({ code: 'secret-missing' });
    await expect(loadSecret(reader(0o600), { file: 'there', flag: 'x' })).rejects.toMatchObject({ code: 'usage' });
  });
});
