/** The mirror as a whole: one directory, one port, any number of exports. */

import { parseExportName } from '../base/export-name.ts';
import { Failure, isFailure, messageOf } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import { formatAddress, type LinkStream } from '../io/network.ts';
import type { World } from '../io/world.ts';
import { Channel } from '../link/channel.ts';
import { decodeHello } from '../link/messages.ts';
import { mayWrite } from '../secure/identity.ts';
import { Admission } from './admission.ts';
import { MirrorExport } from './export.ts';
import { findExports } from './find-exports.ts';
import { DEFAULT_STAGING } from './image-state.ts';
import type { Mirror, MirrorOptions } from './mirror.ts';
import { imagePath } from './open-image.ts';
import type { RecoverReport } from './recover.ts';
import type { MirrorStatus } from './status.ts';

/** Sessions that may exist at once, opening ones included. */
const SESSIONS_MAX = 1024;
/** Exports that one mirror keeps. */
const EXPORTS_MAX = 4096;
/** Rescans and first seedings that run at the same time; the others queue. */
const RESCANS_MAX = 2;
const HELLO_TIMEOUT_MS = 10_000;

/**
 * Opens the mirror: takes the directory, finds the images in it, listens.
 * Failures: `directory-missing`, `directory-busy`, `directory-read-only`, those of listening.
 */
export async function openMirror(world: World, log: Log, options: MirrorOptions): Promise<Mirror> {
  const directory = options.directory;
  if ((await world.files.exists(directory)) !== 'directory') {
    throw new Failure('directory-missing', `${directory} is not a directory`);
  }
  const lock = await world.files.lockDirectory(directory);
  const rules = options.staging ?? DEFAULT_STAGING;
  const admission = new Admission(options.rescansMax ?? RESCANS_MAX, world);
  const exports = new Map<string, MirrorExport>();
  const sessions = new Set<Promise<void>>();
  /** Connections that have not said HELLO yet. */
  const opening = new Set<Channel>();
  let closing = false;

  async function exportNamed(name: string): Promise<MirrorExport> {
    const existing = exports.get(name);
    if (existing !== undefined) return existing;
    if (exports.size >= EXPORTS_MAX)
      throw new Failure('name-taken', `this mirror keeps no more than ${EXPORTS_MAX} exports`);
    const created = new MirrorExport(world, log, directory, name, admission, rules);
    exports.set(name, created);
    return created;
  }

  async function welcome(stream: LinkStream): Promise<void> {
    const channel = new Channel(stream, world.clock, options.timing);
    try {
      if (closing) throw stopping();
      if (sessions.size > SESSIONS_MAX) throw new Failure('mirror-shutting-down', 'too many sessions');
      opening.add(channel);
      const hello = decodeHello(await channel.take(HELLO_TIMEOUT_MS).finally(() => opening.delete(channel)));
      if (closing) throw stopping();
      const name = parseExportName(hello.exportName);
      const identity = channel.identity;
      if (identity === undefined || !mayWrite(identity, name)) {
        throw new Failure('identity-refused', `the identity ${identity ?? '(none)'} may not write the export ${name}`);
      }
      const target = await exportNamed(name);
      await target.serve(channel, hello);
    } catch (error) {
      if (!isFailure(error)) throw error;
      log.warn({ peer: channel.peerName, code: error.code }, `session refused: ${error.message}`);
      channel.refuse(error);
    }
  }

  function accepted(stream: LinkStream): void {
    const session = welcome(stream).finally(() => sessions.delete(session));
    sessions.add(session);
  }

  try {
    for (const name of await findExports(world.files, directory)) {
      const found = await exportNamed(name);
      await found.load();
    }
    const listener = await world.network.listenLink(options.listen, options.tls, accepted, (peer, reason) =>
      log.warn({ peer, code: isFailure(reason) ? reason.code : undefined }, `connection refused: ${messageOf(reason)}`),
    );
    return {
      address: listener.address,
      status(): MirrorStatus {
        const shown = [...exports.values()].map((one) => one.status()).filter((status) => status !== undefined);
        const listening = formatAddress(listener.address);
        return { role: 'mirror', directory, listening, rescans: admission.status, exports: shown };
      },
      async recover(image: string, dryRun: boolean): Promise<RecoverReport> {
        const found = [...exports.values()].find((one) => imagePath(directory, one.name) === image);
        if (found === undefined) throw new Failure('image-unknown', `this mirror keeps no image ${image}`);
        return found.recover(dryRun);
      },
      async close(): Promise<void> {
        closing = true;
        await listener.close();
        for (const channel of opening) channel.refuse(stopping());
        await Promise.all([...exports.values()].map((one) => one.close()));
        await Promise.all(sessions);
        await lock.release();
      },
    };
  } catch (error) {
    await Promise.all([...exports.values()].map((one) => one.close()));
    await lock.release();
    throw error;
  }
}

function stopping(): Failure {
  return new Failure('mirror-shutting-down', 'the mirror is stopping');
}
