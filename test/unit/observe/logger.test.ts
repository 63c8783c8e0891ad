import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import type { Log } from '../../../src/base/log.ts';
import type { LogLevel } from '../../../src/observe/log-level.ts';
import { openLog } from '../../../src/observe/logger.ts';

/** The lines that `use` writes. */
async function logged(level: LogLevel, pretty: boolean, use: (log: Log) => void): Promise<string[]> {
  const lines: string[] = [];
  use(await openLog({ level, pretty, write: (line) => lines.push(line) }));
  for (const line of lines) expect(line).toMatch(/^[^\n]*\n$/);
  return lines;
}

describe('the log', () => {
  it('is one JSON object per line, with the fields of the child', async () => {
    const lines = await logged('info', false, (log) => {
      log.child({ export: 'disk' }).info({ peer: 'unix' }, 'client connected');
      log.warn({}, 'second\nline');
    });
    expect(lines.map((line) => JSON.parse(line) as object)).toEqual([
      {
        level: 'info',
        time: expect.stringMatching(/^\d{4}-\d\d-\d\dT/),
        export: 'disk',
        peer: 'unix',
        msg: 'client connected',
      },
      { level: 'warn', time: expect.any(String), msg: 'second\nline' },
    ]);
  });

  it('keeps what is below the level to itself', async () => {
    const write = (log: Log) => {
      log.debug({}, 'debug');
      log.info({}, 'info');
      log.error({}, 'error');
    };
    expect(await logged('error', false, write)).toEqual([expect.stringContaining('"msg":"error"')]);
    expect(await logged('silent', false, write)).toEqual([]);
    expect(await logged('debug', false, write)).toHaveLength(3);
  });

  it('describes a failure by code, message and hint, with its cause, and a bug with its stack', async () => {
    const lines = await logged('info', false, (log) => {
      const cause = new Error('ENOSPC');
      log.error({ err: new Failure('no-space', 'disk full', { cause }) }, 'failed');
      log.error({ err: new TypeError('undefined is not a disk') }, 'bug');
    });
    const [failure, bug] = lines.map((line) => JSON.parse(line) as { err: object });
    expect(failure!.err).toEqual({
      code: 'no-space',
      message: 'disk full',
      hint: expect.any(String),
      cause: expect.objectContaining({ message: 'ENOSPC' }),
    });
    expect(bug!.err).toMatchObject({ type: 'TypeError', stack: expect.stringContaining('logger.test.ts') });
  });

  it('leaves out the stack of what the system says, and fractions of milliseconds', async () => {
    const [line] = await logged('info', false, (log) => {
      const cause = Object.assign(new Error('no space left'), { code: 'ENOSPC' });
      log.warn({ err: new Failure('no-space', 'disk full', { cause }), elapsedMs: 12.345 }, 'failed');
    });
    expect(JSON.parse(line!)).toMatchObject({
      err: { cause: { code: 'ENOSPC', message: 'no space left' } },
      elapsedMs: 12,
    });
    expect(line).not.toContain('stack');
  });

  it('is readable on a terminal', async () => {
    const [line] = await logged('info', true, (log) => log.info({ export: 'disk' }, 'client connected'));
    expect(line).toMatch(/^\S*\[\d\d:\d\d:\d\d\.\d+\].*INFO.*client connected.*disk/);
  });
});
