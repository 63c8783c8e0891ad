import process from 'node:process';
import type { StartDaemon } from '../daemon/process.ts';
import type { LogFlags, SecretFlags } from './options.ts';

/** Runs `serve` or `mirror` until it is asked to stop. Loaded only now, so that other commands start quickly. */
export async function runDaemon(flags: LogFlags & SecretFlags, start: StartDaemon): Promise<void> {
  const { runProcess } = await import('../daemon/process.ts');
  await runProcess({ level: flags.logLevel, pretty: process.stderr.isTTY === true }, (world, log) => {
    if (flags.secret !== undefined) log.warn({}, '--secret can be read by everyone who may run ps');
    return start(world, log);
  });
}
