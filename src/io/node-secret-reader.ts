import fs from 'node:fs/promises';
import { errnoOf, Failure } from '../base/failure.ts';
import { systemReason } from '../base/system-reason.ts';
import type { SecretReader } from '../secure/load-secret.ts';

/** Secret files of the operating system. A pipe is fine too: `--secret-file <(pass show twin)`. */
export const nodeSecretReader: SecretReader = {
  async readSecret(path, sizeMax) {
    let file: fs.FileHandle;
    try {
      file = await fs.open(path, 'r');
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return undefined;
      throw new Failure('secret-unreadable', `${path} cannot be read: ${systemReason(error)}`, { cause: error });
    }
    try {
      // Of the very file that is read: the path may lead elsewhere a moment later.
      const { mode } = await file.stat();
      const data = Buffer.alloc(sizeMax + 1);
      let size = 0;
      while (size < data.length) {
        const { bytesRead } = await file.read(data, size, data.length - size, null);
        if (bytesRead === 0) break;
        size += bytesRead;
      }
      return { text: data.toString('utf8', 0, size), mode };
    } catch (error) {
      throw new Failure('secret-unreadable', `${path} cannot be read: ${systemReason(error)}`, { cause: error });
    } finally {
      await file.close();
    }
  },
};
