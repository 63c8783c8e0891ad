import process from 'node:process';
import type { StartDaemon } from '../daemon/process.ts';
import type { ProcessFlags, SecretFlags } from './options.ts';

/** Runs `serve` or `mirror` until it is asked to stop. Loaded only now, so that other commands start quickly. */
export async function runDaemon(flags: ProcessFlags & SecretFlags, start: StartDaemon): Promise<void> {
  const { runProcess } = await import('../daemon/process.ts');
  const options = {
    level: flags.logLevel,
    pretty: process.stderr.isTTY === true,
    stopWithStdin: flags.stopWithStdin === true,
  };
  await runProcess(options, (world, log) => {
    if (flags.secret !== undefined) log.warn({}, '--secret can be read by everyone who may run ps');
    return start(world, log);
  });
}
