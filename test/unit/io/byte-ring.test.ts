import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { newByteRing, RingReader, RingWriter } from '../../../src/io/byte-ring.ts';

const CAPACITY = 256;
const LOW_SIZE = 64;

function newEnds() {
  const ring = newByteRing(CAPACITY);
  return { writer: new RingWriter(ring), reader: new RingReader(ring) };
}

/** Takes and frees everything. */
function drain(reader: RingReader): Buffer {
  const bytes = Buffer.concat(reader.take());
  reader.free(bytes.length, LOW_SIZE);
  return bytes;
}

describe('a ring of bytes', () => {
  it('carries what is written, in order and in any pieces, however often it wraps', () => {
    const piece = fc.tuple(fc.constantFrom('push', 'take', 'free'), fc.integer({ min: 1, max: 2 * CAPACITY }));
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 60 }), (steps) => {
        const { writer, reader } = newEnds();
        const written: Buffer[] = [];
        const taken: Buffer[] = [];
        let writtenSize = 0;
        let takenSize = 0;
        let freedSize = 0;
        /** What the ring says of sizes, and what it should. */
        const told: number[] = [];
        const right: number[] = [];
        for (const [what, size] of steps) {
          if (what === 'push') {
            const bytes = randomBytes(size);
            const pushed = writer.push(bytes);
            told.push(pushed);
            right.push(Math.min(size, CAPACITY - (writtenSize - freedSize)));
            written.push(bytes.subarray(0, pushed));
            writtenSize += pushed;
            writer.publish();
          } else if (what === 'take') {
            for (const view of reader.take()) {
              taken.push(Buffer.from(view));
              takenSize += view.length;
            }
            told.push(takenSize);
            right.push(writtenSize);
          } else {
            const freed = Math.min(size, takenSize - freedSize);
            reader.free(freed, LOW_SIZE);
            freedSize += freed;
          }
          told.push(writer.usedSize);
          right.push(writtenSize - freedSize);
        }
        expect(told).toEqual(right);
        expect(Buffer.concat(taken).equals(Buffer.concat(written).subarray(0, takenSize))).toBe(true);
      }),
    );
  });

  it('shows nothing before it is published', () => {
    const { writer, reader } = newEnds();
    writer.push(Buffer.from('abc'));
    expect(reader.take()).toEqual([]);
    writer.publish();
    expect(drain(reader).toString()).toBe('abc');
  });

  it('has its writer wake a reader that sleeps, once', () => {
    const { writer, reader } = newEnds();
    writer.push(Buffer.from('a'));
    expect(writer.publish()).toBe(false);
    // There is something: it does not sleep.
    expect(reader.sleep()).toBe(false);
    drain(reader);
    expect(reader.sleep()).toBe(true);
    writer.push(Buffer.from('b'));
    expect(writer.publish()).toBe(true);
    writer.push(Buffer.from('c'));
    expect(writer.publish()).toBe(false);
    expect(drain(reader).toString()).toBe('bc');
  });

  it('has its reader tell a writer that waits for room, once there is enough', () => {
    const { writer, reader } = newEnds();
    writer.push(randomBytes(CAPACITY));
    writer.publish();
    expect(writer.waitForRoom(LOW_SIZE)).toBe(true);
    reader.take();
    expect(reader.free(CAPACITY - LOW_SIZE - 1, LOW_SIZE)).toBe(false);
    expect(reader.free(1, LOW_SIZE)).toBe(true);
    expect(reader.free(1, LOW_SIZE)).toBe(false);
  });

  it('does not let its writer wait when there is room already', () => {
    const { writer, reader } = newEnds();
    expect(writer.waitForRoom(LOW_SIZE)).toBe(false);
    writer.push(Buffer.from('a'));
    writer.publish();
    reader.take();
    expect(reader.free(1, LOW_SIZE)).toBe(false);
  });

  it('refuses a capacity that is no power of two', () => {
    expect(() => newByteRing(100)).toThrow(/power of two/);
  });
});
