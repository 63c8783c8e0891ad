import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import {
  decodeSlot,
  encodeSlot,
  RecordFile,
  type RecordKind,
  SLOT_HEADER_SIZE,
  SLOT_SIZE,
} from '../../../src/store/record-file.ts';
import { MemoryFiles } from '../../support/memory-files.ts';

const KIND: RecordKind = { letters: 'TEST', version: 7 };
const PATH = '/state/record';

const corrupt = expect.objectContaining({ code: 'state-corrupt' });

/** The record as it would be read now. */
async function contentOf(files: MemoryFiles): Promise<string> {
  const opened = await RecordFile.open(files, KIND, PATH);
  await opened!.file.close();
  return opened!.content.toString();
}

describe('a slot', () => {
  it('is laid out as its byte table says', () => {
    const slot = encodeSlot(KIND, 0x0102030405, Buffer.from('content'));
    expect(slot.length).toBe(4096);
    expect(SLOT_HEADER_SIZE).toBe(32);
    expect(slot.toString('latin1', 0, 8)).toBe('NBDTWIN\0');
    expect(slot.toString('latin1', 8, 12)).toBe('TEST');
    expect(slot.readUInt16LE(12)).toBe(7);
    expect(slot.readUInt16LE(14)).toBe(7);
    expect(slot.readBigUInt64LE(16)).toBe(0x0102030405n);
    expect(slot.readUInt32LE(28)).toBe(0);
    expect(slot.toString('latin1', 32, 39)).toBe('content');
    expect(slot.subarray(39).every((byte) => byte === 0)).toBe(true);
  });

  it('has these very bytes', () => {
    const slot = encodeSlot(KIND, 3, Buffer.from('ab'));
    expect(slot.subarray(0, 36).toString('hex')).toBe(
      `${'4e42445457494e00'}${'54455354'}${'0700'}${'0200'}${'0300000000000000'}${'692172ac'}${'00000000'}${'6162'}${'0000'}`,
    );
  });

  it('holds content up to the end of the slot and no more', () => {
    const content = Buffer.alloc(SLOT_SIZE - SLOT_HEADER_SIZE, 5);
    expect(decodeSlot(KIND, encodeSlot(KIND, 1, content))).toEqual({ counter: 1, content });
    expect(() => encodeSlot(KIND, 1, Buffer.alloc(content.length + 1))).toThrow('record fits its slot');
  });

  it('with any one bit changed in header or content is not taken for whole', () => {
    const slot = encodeSlot(KIND, 3, Buffer.from('content'));
    for (let at = 0; at < SLOT_HEADER_SIZE + 7; at += 1) {
      for (let bit = 0; bit < 8; bit += 1) {
        const spoiled = Buffer.from(slot);
        spoiled[at]! ^= 1 << bit;
        expect(decodeSlot(KIND, spoiled), `byte ${at}`).toBeUndefined();
      }
    }
  });

  it('of another kind or version is refused, not taken for torn', () => {
    expect(() => decodeSlot(KIND, encodeSlot({ letters: 'ELSE', version: 7 }, 1, Buffer.from('x')))).toThrow(corrupt);
    expect(() => decodeSlot(KIND, encodeSlot({ letters: 'TEST', version: 8 }, 1, Buffer.from('x')))).toThrow(corrupt);
  });

  it('cut short at any length is not taken for whole', () => {
    const slot = encodeSlot(KIND, 3, Buffer.from('content'));
    for (let length = 0; length < SLOT_SIZE; length += 1) {
      expect(decodeSlot(KIND, slot.subarray(0, length))).toBeUndefined();
    }
  });
});

describe('a record file', () => {
  it('does not exist until it is created', async () => {
    expect(await RecordFile.open(new MemoryFiles(), KIND, PATH)).toBeUndefined();
  });

  it('gives back what was written last, over many writes and openings', async () => {
    const files = new MemoryFiles();
    const file = await RecordFile.create(files, KIND, PATH, Buffer.from('0'));
    expect(await contentOf(files)).toBe('0');
    for (let version = 1; version <= 5; version += 1) {
      await file.write(Buffer.from(String(version)));
      expect(await contentOf(files)).toBe(String(version));
    }
    await file.close();
    const again = (await RecordFile.open(files, KIND, PATH))!;
    await again.file.write(Buffer.from('six'));
    await again.file.close();
    expect(await contentOf(files)).toBe('six');
    expect(files.openCount).toBe(0);
  });

  it('is durable when a write has returned, and when it has been created', async () => {
    const files = new MemoryFiles();
    const file = await RecordFile.create(files, KIND, PATH, Buffer.from('first'));
    const { disk } = files.file(PATH);
    expect(disk.durableContent().equals(disk.content())).toBe(true);
    await file.write(Buffer.from('second'));
    expect(disk.durableContent().equals(disk.content())).toBe(true);
    expect(decodeSlot(KIND, disk.durableContent().subarray(0, SLOT_SIZE))?.content.toString()).toBe('second');
  });

  it('torn at any byte of a write reads as before or, when whole, as after', async () => {
    for (const versions of [1, 2]) {
      const files = new MemoryFiles();
      const file = await RecordFile.create(files, KIND, PATH, Buffer.from('version 0'));
      for (let version = 1; version < versions; version += 1) await file.write(Buffer.from(`version ${version}`));
      const before = files.file(PATH).disk.content();
      await file.write(Buffer.from(`version ${versions}`));
      await file.close();
      const after = files.file(PATH).disk.content();
      const slotAt = versions % 2 === 0 ? SLOT_SIZE : 0;
      expect(before.equals(after)).toBe(false);
      expect(before.subarray(SLOT_SIZE - slotAt, 2 * SLOT_SIZE - slotAt)).toEqual(
        after.subarray(SLOT_SIZE - slotAt, 2 * SLOT_SIZE - slotAt),
      );
      const whole = SLOT_HEADER_SIZE + 'version 0'.length;
      for (let torn = 0; torn <= SLOT_SIZE; torn += 1) {
        // From the front, and as a disk may do it, the other end first.
        for (const [from, to] of [
          [0, torn],
          [SLOT_SIZE - torn, SLOT_SIZE],
        ] as const) {
          const bytes = Buffer.from(before);
          after.copy(bytes, slotAt + from, slotAt + from, slotAt + to);
          files.put(PATH, bytes);
          const complete = bytes.subarray(0, slotAt + whole).equals(after.subarray(0, slotAt + whole));
          expect(await contentOf(files), `torn ${from} to ${to}`).toBe(`version ${complete ? versions : versions - 1}`);
        }
      }
    }
  });

  it('with neither slot whole is corrupt', async () => {
    const files = new MemoryFiles();
    const file = await RecordFile.create(files, KIND, PATH, Buffer.from('one'));
    await file.write(Buffer.from('two'));
    await file.close();
    const bytes = files.file(PATH).disk.content();
    bytes[33]! ^= 1;
    bytes[SLOT_SIZE + 33]! ^= 1;
    files.put(PATH, bytes);
    await expect(RecordFile.open(files, KIND, PATH)).rejects.toThrow(corrupt);
    files.put(PATH, Buffer.alloc(0));
    await expect(RecordFile.open(files, KIND, PATH)).rejects.toThrow(corrupt);
    expect(files.openCount).toBe(0);
  });

  it('of another kind or version is corrupt', async () => {
    const files = new MemoryFiles();
    await (await RecordFile.create(files, { ...KIND, version: 8 }, PATH, Buffer.from('one'))).close();
    await expect(RecordFile.open(files, KIND, PATH)).rejects.toThrow(corrupt);
  });

  it('keeps the old content after a failed write or sync, and the next write does not touch the good slot', async () => {
    for (const failing of ['write', 'sync'] as const) {
      const files = new MemoryFiles();
      const file = await RecordFile.create(files, KIND, PATH, Buffer.from('good'));
      const { disk } = files.file(PATH);
      disk.hook = (call) => {
        if (call === failing) throw new Failure('io-error', 'injected');
      };
      await expect(file.write(Buffer.from('lost'))).rejects.toThrow('injected');
      disk.hook = undefined;
      const good = disk.content().subarray(SLOT_SIZE);
      expect(decodeSlot(KIND, good)?.content.toString()).toBe('good');
      // A power cut in the next write: whatever it left, the good slot is still there.
      disk.hook = (call) => {
        if (call === 'write') throw new Failure('io-error', 'power');
      };
      await expect(file.write(Buffer.from('torn'))).rejects.toThrow('power');
      expect(disk.content().subarray(SLOT_SIZE).equals(good)).toBe(true);
      disk.hook = undefined;
      await file.write(Buffer.from('next'));
      expect(await contentOf(files)).toBe('next');
      await file.close();
    }
  });

  it('that a killed process wrote and did not sync is durable before it counts', async () => {
    const files = new MemoryFiles();
    const file = await RecordFile.create(files, KIND, PATH, Buffer.from('synced'));
    await file.close();
    const { disk } = files.file(PATH);
    void disk.write(encodeSlot(KIND, 2, Buffer.from('written')), 0);
    expect(decodeSlot(KIND, disk.durableContent().subarray(0, SLOT_SIZE))).toBeUndefined();
    expect(await contentOf(files)).toBe('written');
    expect(decodeSlot(KIND, disk.durableContent().subarray(0, SLOT_SIZE))?.content.toString()).toBe('written');
  });

  it('of which a failed sync has lost the newest is as the medium holds it', async () => {
    const files = new MemoryFiles();
    const file = await RecordFile.create(files, KIND, PATH, Buffer.from('held'));
    const { disk } = files.file(PATH);
    disk.hook = (call) => {
      if (call === 'sync') throw new Failure('io-error', 'injected');
    };
    await expect(file.write(Buffer.from('lost'))).rejects.toThrow('injected');
    await file.close();
    disk.hook = undefined;
    expect(await contentOf(files)).toBe('held');
    // The slot that is durable is not the one that the next version goes to.
    const again = (await RecordFile.open(files, KIND, PATH))!;
    disk.hook = (call) => {
      if (call === 'sync') throw new Failure('io-error', 'injected');
    };
    await expect(again.file.write(Buffer.from('torn'))).rejects.toThrow('injected');
    await again.file.close();
    expect(decodeSlot(KIND, disk.durableContent().subarray(SLOT_SIZE))?.content.toString()).toBe('held');
  });

  it('whose disk fails is not opened, and left closed', async () => {
    const files = new MemoryFiles();
    await (await RecordFile.create(files, KIND, PATH, Buffer.from('one'))).close();
    files.file(PATH).disk.hook = (call) => {
      if (call === 'sync') throw new Failure('io-error', 'injected');
    };
    await expect(RecordFile.open(files, KIND, PATH)).rejects.toThrow('injected');
    expect(files.openCount).toBe(0);
  });

  it('writes one after the other, each durable before the next touches the file', async () => {
    const files = new MemoryFiles();
    const file = await RecordFile.create(files, KIND, PATH, Buffer.from('0'));
    const calls: string[] = [];
    const { disk } = files.file(PATH);
    disk.hook = async (call) => {
      calls.push(`${call} begins`);
      await new Promise((resolve) => setImmediate(resolve));
      calls.push(`${call} ends`);
    };
    await Promise.all(['1', '2', '3'].map((text) => file.write(Buffer.from(text))));
    const once = ['write begins', 'write ends', 'sync begins', 'sync ends'];
    expect(calls).toEqual([...once, ...once, ...once]);
    expect(await contentOf(files)).toBe('3');
  });

  it('waits with close for the writes under way', async () => {
    const files = new MemoryFiles();
    const file = await RecordFile.create(files, KIND, PATH, Buffer.from('0'));
    files.file(PATH).disk.hook = () => new Promise((resolve) => setImmediate(resolve));
    const written = file.write(Buffer.from('1'));
    await file.close();
    expect(files.openCount).toBe(0);
    await written;
    files.file(PATH).disk.hook = undefined;
    expect(await contentOf(files)).toBe('1');
  });
});
