import { spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { LINE_BACKLOG_MAX, LineSink } from '../../../src/io/line-sink.ts';
import { runProgram } from '../../support/run-program.ts';
import { temporaryFolder } from '../../support/temporary-folder.ts';

function sinkToFile(): { sink: LineSink; text: () => string } {
  const path = join(temporaryFolder(), 'log');
  const descriptor = openSync(path, 'a');
  onTestFinished(() => closeSync(descriptor));
  return { sink: new LineSink(descriptor), text: () => readFileSync(path, 'utf8') };
}

/** The writing end of a pipe that nobody reads; its reading end is there until `close`. */
async function unreadPipe(): Promise<{ descriptor: number; path: string; close: () => void }> {
  const path = join(temporaryFolder(), 'pipe');
  await runProgram('mkfifo', [path]);
  const reader = openSync(path, 'r+');
  const descriptor = openSync(path, 'a');
  const close = () => closeSync(reader);
  return { descriptor, path, close };
}

describe('LineSink', () => {
  it('writes every line in its order', async () => {
    const { sink, text } = sinkToFile();
    const lines = Array.from({ length: 1000 }, (_, index) => `line ${index}\n`);
    for (const line of lines) sink.write(line);
    await sink.flush();
    expect(text()).toBe(lines.join(''));
    sink.write('after\n');
    await sink.flush();
    expect(text().endsWith('line 999\nafter\n')).toBe(true);
    expect(sink.droppedCount).toBe(0);
  });

  it('has written everything when flushNow returns', () => {
    const { sink, text } = sinkToFile();
    for (const line of ['first\n', 'second\n', 'last\n']) sink.write(line);
    sink.flushNow();
    expect(text()).toBe('first\nsecond\nlast\n');
  });

  it('keeps a bounded backlog for a reader that is stuck, drops beyond, and does not wait for it at the end', async () => {
    const pipe = await unreadPipe();
    const sink = new LineSink(pipe.descriptor);
    const line = `${'x'.repeat(1023)}\n`;
    const capacity = LINE_BACKLOG_MAX / line.length;
    for (let count = 0; count < 2 * capacity; count += 1) sink.write(line);
    expect(sink.droppedCount).toBeGreaterThanOrEqual(capacity - 1);
    expect(sink.droppedCount).toBeLessThan(2 * capacity);
    await sink.flush();
    sink.flushNow();
    // Whoever reads at last lets the thread of the pool go that waits in its write.
    const reading = spawn('cat', [pipe.path], { stdio: 'ignore' });
    onTestFinished(() => {
      reading.kill();
      pipe.close();
    });
  });

  it('goes on without a reader once that is gone', async () => {
    const pipe = await unreadPipe();
    pipe.close();
    const sink = new LineSink(pipe.descriptor);
    sink.write('nobody reads this\n');
    await sink.flush();
    sink.write('nor this\n');
    sink.flushNow();
    expect(sink.droppedCount).toBe(1);
  });
});
