import assert from 'node:assert/strict';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ByteQueue } from '../src/byte-queue.ts';

/** A queue and what it must hold: bytes that count up. */
class Model {
  readonly queue = new ByteQueue();
  pushed = 0;
  read = 0;
  #taking: number | undefined;

  expected(count: number): number[] {
    return Array.from({ length: count }, (_, index) => (this.read + index) & 0xff);
  }

  step(kind: string, count: number): void {
    const arrived = this.pushed - this.read;
    if (kind === 'push') {
      this.queue.push(Uint8Array.from({ length: count }, (_, index) => (this.pushed + index) & 0xff));
      this.pushed += count;
    } else if (kind === 'take' || this.#taking !== undefined) {
      // A read that was begun has to be finished first.
      this.#take(this.#taking ?? count, arrived);
    } else if (kind === 'peek') {
      assert.equal(this.queue.peek(count), arrived >= count);
      const { head, at } = this.queue;
      if (arrived >= count) assert.deepEqual([...head.subarray(at, at + count)], this.expected(count));
    } else if (kind === 'discard') {
      const discarded = this.queue.discard(count);
      assert.equal(discarded, Math.min(count, arrived));
      this.read += discarded;
    } else if (arrived >= count) {
      this.queue.skip(count);
      this.read += count;
    }
  }

  #take(count: number, arrived: number): void {
    const taken = this.queue.take(count);
    this.#taking = taken === undefined ? count : undefined;
    assert.equal(taken === undefined, arrived < count);
    if (taken === undefined) return;
    assert.deepEqual([...taken], this.expected(count));
    this.read += count;
  }
}

describe('ByteQueue', () => {
  const steps = fc.array(
    fc.record({ kind: fc.constantFrom('push', 'peek', 'skip', 'discard', 'take'), count: fc.nat(60) }),
    { maxLength: 200 },
  );

  test('reads what was pushed, in order, whatever the chunks and the kind of read', () => {
    fc.assert(
      fc.property(steps, (actions) => {
        const model = new Model();
        for (const { kind, count } of actions) {
          model.step(kind, count);
          expect([...model.queue.rest()]).toEqual(model.expected(model.pushed - model.read));
        }
      }),
      { numRuns: 1000 },
    );
  });

  test('a payload under way holds on to no chunk', () => {
    const queue = new ByteQueue();
    for (let index = 0; index < 100; index += 1) {
      queue.push(Uint8Array.of(index));
      expect(queue.take(101)).toBeUndefined();
      expect(queue.size).toBe(0);
      expect(queue.head).toHaveLength(0);
    }
    queue.push(Uint8Array.of(100, 101));
    expect([...queue.take(101)!]).toEqual([...Array.from({ length: 101 }).keys()]);
    expect([...queue.rest()]).toEqual([101]);
  });

  test('many small chunks that wait together are read in linear time', () => {
    const queue = new ByteQueue();
    const count = 200_000;
    for (let index = 0; index < count; index += 1) queue.push(new Uint8Array(27));
    let read = 0;
    const start = performance.now();
    for (; queue.peek(28); read += 28) queue.skip(28);
    expect(read).toBe(count * 27 - ((count * 27) % 28));
    expect(performance.now() - start).toBeLessThan(2000);
  });
});
