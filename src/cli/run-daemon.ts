import process from 'node:process';
import type { StartDaemon } from '../daemon/process.ts';
import type { LogFlags, SecretFlags } from './options.ts';

/** Runs `serve` or `mirror` until it is asked to stop. Loaded only now, so that other commands start quickly. */
export async function runDaemon(flags: LogFlags & SecretFlags, start: StartDaemon): Promise<void> {
  const [{ openLogger }, { runProcess }] = await Promise.all([
    import('../observe/logger.ts'),
    import('../daemon/process.ts'),
  ]);
  const logger = await openLogger({ level: flags.logLevel, pretty: process.stderr.isTTY === true });
  if (flags.secret !== undefined) logger.log.warn({}, '--secret can be read by everyone who may run ps');
  try {
    await runProcess(logger, start);
  } finally {
    logger.flush();
  }
}
