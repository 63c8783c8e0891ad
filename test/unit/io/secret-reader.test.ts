import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { nodeSecretReader } from '../../../src/io/node-secret-reader.ts';
import { loadSecret } from '../../../src/secure/load-secret.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';

const LINE = `a:${'00'.repeat(16)}`;

describe('reading a secret file', () => {
  it('heeds the permissions of the very file', async () => {
    const folder = temporaryFolder();
    const path = join(folder, 'twin.key');
    fs.writeFileSync(path, LINE, { mode: 0o600 });
    fs.symlinkSync(path, join(folder, 'link'));
    expect(await loadSecret(nodeSecretReader, { file: join(folder, 'link') })).toHaveLength(1);
    fs.chmodSync(path, 0o644);
    for (const name of ['twin.key', 'link']) {
      await expect(loadSecret(nodeSecretReader, { file: join(folder, name) })).rejects.toMatchObject({
        code: 'secret-exposed',
      });
    }
  });

  it('tells what cannot be read', async () => {
    const folder = temporaryFolder();
    expect(await nodeSecretReader.readSecret(join(folder, 'none'), 100)).toBeUndefined();
    await expect(nodeSecretReader.readSecret(folder, 100)).rejects.toMatchObject({
      code: 'secret-unreadable',
      message: `${folder} cannot be read: illegal operation on a directory`,
    });
  });

  it('reads no more than it may, so that a large file is refused and not swallowed', async () => {
    const path = join(temporaryFolder(), 'large');
    fs.writeFileSync(path, '#', { mode: 0o600 });
    fs.truncateSync(path, 10 * 1024 ** 3);
    expect((await nodeSecretReader.readSecret(path, 100))?.text).toHaveLength(101);
    await expect(loadSecret(nodeSecretReader, { file: path })).rejects.toMatchObject({ code: 'secret-malformed' });
  });

  it('reads a pipe of the owner, as a shell gives for <(...)', async () => {
    const path = join(temporaryFolder(), 'pipe');
    execFileSync('mkfifo', ['-m', '600', path]);
    const [keys] = await Promise.all([
      loadSecret(nodeSecretReader, { file: path }),
      fs.promises.writeFile(path, `${LINE}\n`),
    ]);
    expect(keys).toHaveLength(1);
  });
});
