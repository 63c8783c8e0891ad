/** When frames go out: what somebody waits for at the end of the turn, the rest a little later and together. */
import { describe, expect, it } from 'vitest';
import { KIB } from '../../../src/base/units.ts';
import type { Channel } from '../../../src/link/channel.ts';
import { FrameDecoder } from '../../../src/link/frame.ts';
import { Sender } from '../../../src/primary/sender.ts';
import { memoryReplica } from '../../support/memory-replica.ts';
import { memoryWorld } from '../../support/memory-world.ts';

const SIZE = 1024 * KIB;

async function scene() {
  const world = memoryWorld();
  const { replica } = await memoryReplica(world, SIZE);
  /** Sequences of each socket write. */
  const sent: number[][] = [];
  const decoder = new FrameDecoder();
  decoder.admitData();
  const channel = {
    ended: false,
    send(chunks: readonly Uint8Array[]) {
      for (const chunk of chunks) decoder.push(Buffer.from(chunk));
      const sequences: number[] = [];
      for (let frame = decoder.next(); frame !== undefined; frame = decoder.next()) sequences.push(frame.sequence);
      sent.push(sequences);
      return true;
    },
  } as unknown as Channel;
  const sender = new Sender(channel, replica, world.clock);
  const write = (waited: boolean, size = 512): void => {
    replica.append(16, replica.sequence + 1, 0, size, Buffer.alloc(size, 1));
    sender.schedule(waited);
  };
  const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
  return { world, sent, write, turn };
}

describe('the sender', () => {
  it('sends what was appended in one turn as one socket write', async () => {
    const { sent, write, turn } = await scene();
    for (let count = 0; count < 3; count += 1) write(true);
    expect(sent).toEqual([]);
    await turn();
    expect(sent).toEqual([[1, 2, 3]]);
  });

  it('lets what nobody waits for wait a millisecond behind the write before, and no longer', async () => {
    const { world, sent, write, turn } = await scene();
    write(false);
    await turn();
    write(false);
    await turn();
    write(false);
    await turn();
    expect(sent).toEqual([[1]]);
    world.clock.advance(1);
    expect(sent).toEqual([[1], [2, 3]]);
    world.clock.advance(10);
    write(false);
    await turn();
    expect(sent).toEqual([[1], [2, 3], [4]]);
  });

  it('sends at once what somebody waits for, with all before it, and what is much', async () => {
    const { world, sent, write, turn } = await scene();
    write(false);
    await turn();
    write(false);
    write(true);
    await turn();
    expect(sent).toEqual([[1], [2, 3]]);
    write(false, 64 * KIB);
    write(false, 64 * KIB);
    await turn();
    expect(sent).toEqual([[1], [2, 3], [4, 5]]);
    world.clock.advance(10);
    expect(sent).toHaveLength(3);
  });
});
