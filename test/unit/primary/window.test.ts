import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FRAME_BARRIER, FrameType, type FrameTypeCode } from '../../../src/link/frame.ts';
import { ENTRY_OVERHEAD_SIZE, Window, type WindowEntry } from '../../../src/primary/window.ts';

interface ModelEntry {
  type: FrameTypeCode;
  flags: number;
  sequence: number;
  offset: number;
  length: number;
  data: Uint8Array | undefined;
  remark: boolean;
  atMs: number;
}

/** The window as a plain list with two marks in it: how far it was sent, how far applied. */
class Model {
  entries: ModelEntry[] = [];
  unsent = 0;
  unapplied = 0;
  base: number;
  sent: number;

  constructor(base: number) {
    this.base = base;
    this.sent = base;
  }

  get usedSize(): number {
    const buffers = new Set(this.entries.flatMap(({ data }) => (data === undefined ? [] : [data.buffer])));
    const held = [...buffers].reduce((sum, buffer) => sum + buffer.byteLength, 0);
    return held + this.entries.length * ENTRY_OVERHEAD_SIZE;
  }

  get unappliedSize(): number {
    return this.entries.slice(this.unapplied).reduce((sum, { remark, length }) => sum + (remark ? 0 : length), 0);
  }

  operations(): [number, number][] {
    return this.entries.flatMap(({ remark, offset, length }) => (remark || length === 0 ? [] : [[offset, length]]));
  }

  applied(sequence: number): void {
    while (this.unapplied < this.unsent && this.entries[this.unapplied]!.sequence <= sequence) this.unapplied += 1;
  }

  forget(sequence: number): void {
    while (Math.min(this.unsent, this.unapplied) > 0 && this.entries[0]!.sequence <= sequence) {
      this.entries.shift();
      this.unsent -= 1;
      this.unapplied -= 1;
    }
    this.base = Math.max(this.base, sequence);
  }

  rewind(sequence: number): void {
    this.entries = this.entries.filter(({ remark }) => !remark);
    this.unsent = this.entries.filter((entry) => entry.sequence <= sequence).length;
    this.unapplied = this.unsent;
    this.sent = sequence;
  }

  clear(sequence: number): void {
    this.entries = [];
    this.unsent = 0;
    this.unapplied = 0;
    this.base = sequence;
    this.sent = sequence;
  }
}

const LIMIT = 20_000;
const ARENA = Buffer.alloc(4096, 1);

const step = fc.record({
  kind: fc.constantFrom(
    ...(['write', 'write', 'write', 'zero', 'barrier', 'repair', 'pass', 'take', 'take', 'take', 'take'] as const),
    ...([
      'write',
      'write',
      'write',
      'repair',
      'applied',
      'applied',
      'applied',
      'forget',
      'forget',
      'rewind',
      'clear',
    ] as const),
  ),
  size: fc.integer({ min: 1, max: 3000 }),
  share: fc.nat(100),
  shared: fc.boolean(),
});

describe('the window', () => {
  it('behaves like a plain list under any sequence of calls, and counts its size exactly', () => {
    const lengths = { most: 0 };
    fc.assert(
      fc.property(fc.array(step, { maxLength: 150, size: 'max' }), fc.nat(50), (steps, base) => {
        const window = new Window(LIMIT, base);
        const model = new Model(base);
        let sequence = base;
        let lastBarrier = -1;
        steps.forEach(({ kind, size, share, shared }, nowMs) => {
          const between = (from: number, to: number): number => from + Math.floor(((to - from) * share) / 100);
          const push = (type: FrameTypeCode, length: number, data: Uint8Array | undefined, remark: boolean): void => {
            window.push(type, 0, sequence, size * 10, length, data, remark, nowMs);
            model.entries.push({ type, flags: 0, sequence, offset: size * 10, length, data, remark, atMs: nowMs });
          };
          const bytes = shared ? ARENA.subarray(0, size) : new Uint8Array(size);
          let taken: [unknown, unknown] = [undefined, undefined];
          if (kind === 'write' || kind === 'zero') {
            sequence += 1;
            push(
              kind === 'write' ? FrameType.WRITE : FrameType.ZERO,
              size,
              kind === 'write' ? bytes : undefined,
              false,
            );
          } else if (kind === 'repair') {
            push(FrameType.WRITE, size, bytes, true);
          } else if (kind === 'pass') {
            push(FrameType.PASS, 0, undefined, true);
          } else if (kind === 'barrier') {
            window.pushBarrier(sequence, nowMs);
            const last = model.entries.at(-1);
            const waits = model.unsent < model.entries.length;
            const carries = waits && last?.remark === false && last.sequence === sequence;
            if (lastBarrier !== sequence && waits && last?.type === FrameType.BARRIER) last.sequence = sequence;
            else if (lastBarrier !== sequence && carries) last.flags = FRAME_BARRIER;
            else if (lastBarrier !== sequence)
              model.entries.push({
                type: FrameType.BARRIER,
                flags: 0,
                sequence,
                offset: 0,
                length: 0,
                data: undefined,
                remark: false,
                atMs: nowMs,
              });
            lastBarrier = sequence;
          } else if (kind === 'take') {
            const entry = window.takeUnsent();
            const expected = model.entries[model.unsent];
            taken = [entry && { ...entry }, expected && { ...expected }];
            if (entry !== undefined && expected !== undefined) {
              model.unsent += 1;
              model.sent = expected.sequence;
              if (entry.remark) {
                window.releaseRemark(entry);
                expected.data = undefined;
              }
            }
          } else if (kind === 'applied') {
            const position = between(model.base, model.sent);
            window.applied(position);
            model.applied(position);
          } else if (kind === 'forget') {
            const position = between(model.base, model.sent);
            window.forget(position);
            model.forget(position);
          } else if (kind === 'rewind') {
            const position = between(model.base, sequence);
            window.rewind(position);
            model.rewind(position);
          } else {
            const dropped: [number, number][] = [];
            window.clear(sequence, (entry) => dropped.push([entry.offset, entry.length]));
            taken = [dropped, model.operations()];
            model.clear(sequence);
            lastBarrier = -1;
          }
          const operations: [number, number][] = [];
          window.forEachOperation((offset, length) => operations.push([offset, length]));
          expect(taken[0] ?? {}).toMatchObject(taken[1] ?? {});
          expect({
            used: window.usedSize,
            hasUnsent: window.hasUnsent,
            unappliedSize: window.unappliedSize,
            oldest: window.oldestUnappliedMs,
            base: window.baseSequence,
            sent: window.sentSequence,
            operations,
            room: [0, 500, LIMIT].map((more) => window.hasRoomFor(more)),
          }).toEqual({
            used: model.usedSize,
            hasUnsent: model.unsent < model.entries.length,
            unappliedSize: model.unappliedSize,
            oldest: model.unappliedSize === 0 ? undefined : model.entries[model.unapplied]?.atMs,
            base: model.base,
            sent: model.sent,
            operations: model.operations(),
            room: [0, 500, LIMIT].map(
              (more) => model.usedSize === 0 || model.usedSize + more + ENTRY_OVERHEAD_SIZE <= LIMIT,
            ),
          });
          lengths.most = Math.max(lengths.most, model.entries.length);
        });
      }),
      { numRuns: 30 },
    );
    expect(lengths.most).toBeGreaterThan(15);
  });

  it('stays exact over many thousands of operations that come and go', () => {
    const window = new Window(2 ** 30, 0);
    let recorded = 0;
    for (let sequence = 1; sequence <= 20_000; sequence += 1) {
      window.push(FrameType.WRITE, 0, sequence, 0, 10, new Uint8Array(10), false, sequence);
      expect(window.takeUnsent()!.sequence).toBe(sequence);
      if (sequence % 700 !== 0) continue;
      recorded = sequence - 100;
      window.applied(recorded);
      window.forget(recorded);
    }
    expect(window.usedSize).toBe((20_000 - recorded) * (10 + ENTRY_OVERHEAD_SIZE));
    expect(window.unappliedSize).toBe((20_000 - recorded) * 10);
    window.rewind(recorded);
    expect(window.takeUnsent()!.sequence).toBe(recorded + 1);
  });

  it('keeps an entry that was not sent, whatever the mirror claims to have recorded', () => {
    const window = new Window(LIMIT, 0);
    window.push(FrameType.WRITE, 0, 1, 0, 10, new Uint8Array(10), false, 0);
    window.applied(1);
    window.forget(1);
    expect(window.takeUnsent()?.sequence).toBe(1);
    expect(window.unappliedSize).toBe(10);
  });

  it('refuses a sequence that goes back', () => {
    const window = new Window(LIMIT, 5);
    expect(() => window.push(FrameType.ZERO, 0, 4, 0, 1, undefined, false, 0)).toThrow('in order');
    window.push(FrameType.ZERO, 0, 7, 0, 1, undefined, false, 0);
    expect(() => window.push(FrameType.ZERO, 0, 6, 0, 1, undefined, false, 0)).toThrow('in order');
  });

  it('does not give back the data of an operation before it is recorded', () => {
    const window = new Window(LIMIT, 0);
    window.push(FrameType.WRITE, 0, 1, 0, 10, new Uint8Array(10), false, 0);
    const entry = window.takeUnsent() as WindowEntry;
    expect(() => window.releaseRemark(entry)).toThrow('only remarks');
  });

  it('keeps one barrier where several follow at once, moved on until it is sent', () => {
    const window = new Window(LIMIT, 0);
    for (const sequence of [3, 3, 4, 9]) window.pushBarrier(sequence, 0);
    expect(window.usedSize).toBe(ENTRY_OVERHEAD_SIZE);
    expect(window.takeUnsent()).toMatchObject({ type: FrameType.BARRIER, sequence: 9 });
    window.pushBarrier(9, 0);
    expect(window.hasUnsent).toBe(false);
    window.pushBarrier(10, 0);
    window.push(FrameType.ZERO, 0, 11, 0, 1, undefined, false, 0);
    window.pushBarrier(11, 0);
    expect(window.takeUnsent()).toMatchObject({ type: FrameType.BARRIER, sequence: 10 });
    expect(window.takeUnsent()).toMatchObject({ type: FrameType.ZERO, sequence: 11, flags: FRAME_BARRIER });
    expect(window.hasUnsent).toBe(false);
  });

  it('keeps one version of the dirty map until it is sent, in front of all that came after any of them', () => {
    const window = new Window(LIMIT, 0);
    window.pushMapVersion(7, 0, 0);
    window.push(FrameType.ZERO, 0, 1, 0, 1, undefined, false, 0);
    const { usedSize } = window;
    // Nothing is sent, while group after group of marks is made.
    for (let version = 8; version < 500; version += 1) window.pushMapVersion(version, 1, 0);
    expect(window.usedSize).toBe(usedSize);
    expect(window.takeUnsent()).toMatchObject({ type: FrameType.MAP_VERSION, offset: 499, sequence: 0, remark: true });
    // The next operation may rely on what was made after that one was sent.
    window.pushMapVersion(500, 1, 0);
    expect(window.takeUnsent()).toMatchObject({ type: FrameType.ZERO, sequence: 1 });
    window.push(FrameType.ZERO, 0, 2, 0, 1, undefined, false, 0);
    window.pushMapVersion(501, 2, 0);
    expect(window.takeUnsent()).toMatchObject({ type: FrameType.MAP_VERSION, offset: 501 });
    expect(window.takeUnsent()).toMatchObject({ type: FrameType.ZERO, sequence: 2 });
    expect(window.hasUnsent).toBe(false);
  });

  it('pushes a version of the dirty map anew where the one that waited is gone with its session', () => {
    const window = new Window(LIMIT, 0);
    for (const forget of [() => window.rewind(0), () => window.clear(0, () => undefined)]) {
      window.pushMapVersion(7, 0, 0);
      forget();
      expect(window.hasUnsent).toBe(false);
      window.pushMapVersion(8, 0, 0);
      expect(window.takeUnsent()).toMatchObject({ type: FrameType.MAP_VERSION, offset: 8 });
      window.clear(0, () => undefined);
    }
  });

  it('counts a buffer once that several entries share, until the last of them is gone', () => {
    const window = new Window(LIMIT, 0);
    const arena = new Uint8Array(8192);
    window.push(FrameType.WRITE, 0, 1, 0, 100, arena.subarray(0, 100), false, 0);
    window.push(FrameType.WRITE, 0, 2, 0, 100, arena.subarray(100, 200), false, 0);
    expect(window.usedSize).toBe(8192 + 2 * ENTRY_OVERHEAD_SIZE);
    window.takeUnsent();
    window.takeUnsent();
    window.applied(2);
    window.forget(1);
    expect(window.usedSize).toBe(8192 + ENTRY_OVERHEAD_SIZE);
    window.forget(2);
    expect(window.usedSize).toBe(0);
  });
});
