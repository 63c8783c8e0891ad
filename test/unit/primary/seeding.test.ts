import { expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { MIB } from '../../../src/base/units.ts';
import { MemoryPair } from '../../support/memory-pair.ts';

it('a seeding ships all around a block that cannot be read', async () => {
  const content = Buffer.alloc(2 * MIB, 5);
  const bad = 10 * 4096;
  const pair = await new MemoryPair().with(content);
  pair.disk.hook = (call, offset, length) => {
    if (call === 'read' && offset < bad + 4096 && offset + length > bad) throw new Failure('io-error', 'bad block');
  };
  await pair.startMirror();
  await pair.startPrimary();
  await pair.untilStreaming();
  const expected = Buffer.from(content).fill(0, bad, bad + 4096);
  expect(pair.image.content().equals(expected)).toBe(true);
  expect(pair.link.unreadableSize).toBe(MIB);
});
