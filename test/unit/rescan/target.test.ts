import { describe, expect, it } from 'vitest';
import { Failure } from '../../../src/base/failure.ts';
import { MIB } from '../../../src/base/units.ts';
import { DIGEST_KEY_SIZE } from '../../../src/io/digest.ts';
import type { ScanPool, ScanRequest, ScanResult } from '../../../src/io/scan-pool.ts';
import { newScanResult } from '../../../src/io/scan-request.ts';
import { type DigestUnit, decodeDigestReply, encodeDigestRequest } from '../../../src/link/digests.ts';
import { encodeFrame, type Frame, FrameDecoder, FrameType } from '../../../src/link/frame.ts';
import { RescanTarget } from '../../../src/rescan/target.ts';
import { inlineScanPool } from '../../support/inline-scan-pool.ts';
import { ManualClock } from '../../support/manual-clock.ts';
import { MemoryDisk } from '../../support/memory-disk.ts';

const SIZE = 3 * MIB + 512;
const KEY = Buffer.alloc(DIGEST_KEY_SIZE, 1);
const OTHER_KEY = Buffer.alloc(DIGEST_KEY_SIZE, 2);
const turn = () => new Promise<void>((resolve) => setImmediate(resolve));
const invalid = expect.objectContaining({ code: 'frame-invalid' });

function decode(bytes: Buffer): Frame {
  const decoder = new FrameDecoder();
  decoder.push(bytes);
  return decoder.next()!;
}

function question(offset: number, length: number, unit: DigestUnit): Frame {
  return decode(encodeDigestRequest(offset, length, unit));
}

/** Scans wait until the test settles them. */
class HeldScans implements ScanPool {
  readonly asked: { request: ScanRequest; done: () => void; fail: (error: Error) => void }[] = [];

  scan(_disk: unknown, request: ScanRequest): Promise<ScanResult> {
    return new Promise((resolve, reject) => {
      const done = (): void => resolve(newScanResult(request.length, request.unitSize));
      this.asked.push({ request, done, fail: reject });
    });
  }

  async close(): Promise<void> {}
}

function held() {
  const scans = new HeldScans();
  const replies: Frame[] = [];
  const failures: unknown[] = [];
  const disk = new MemoryDisk(SIZE);
  const target = new RescanTarget(
    () => ({ disk, size: SIZE }),
    { scan: scans, clock: new ManualClock() },
    (reply) => replies.push(decode(reply)),
    (reason) => failures.push(reason),
  );
  return { scans, replies, failures, target };
}

describe('the target of a rescan', () => {
  it('answers with the digests of the image, the short last unit included', async () => {
    const disk = new MemoryDisk(SIZE);
    await disk.write(Buffer.from('data'), SIZE - 4);
    const replies: Frame[] = [];
    const scan = inlineScanPool();
    const target = new RescanTarget(
      () => ({ disk, size: SIZE }),
      { scan, clock: new ManualClock() },
      (reply) => replies.push(decode(reply)),
      () => undefined,
    );
    target.passBegan(KEY);
    target.request(question(MIB, SIZE - MIB, MIB));
    await turn();
    expect(replies[0]).toMatchObject({ type: FrameType.DIGEST_REPLY, flags: 0, offset: MIB, length: SIZE - MIB });
    const expected = await scan.scan(disk, { offset: MIB, length: SIZE - MIB, unitSize: MIB, key: KEY });
    const reply = decodeDigestReply(replies[0]!, SIZE);
    expect([...reply.zero]).toEqual([1, 1, 0]);
    expect(Buffer.from(expected.digests).equals(Buffer.from(reply.digests))).toBe(true);
  });

  it('lets questions that overtook their pass wait for it, and answers them with its key', async () => {
    const { target, scans, replies } = held();
    target.request(question(0, MIB, MIB));
    target.request(question(MIB, MIB, MIB));
    await turn();
    expect(scans.asked.length).toBe(0);
    target.passBegan(KEY);
    expect(scans.asked.map(({ request }) => [request.offset, Buffer.from(request.key)])).toEqual([
      [0, KEY],
      [MIB, KEY],
    ]);
    scans.asked[1]!.done();
    scans.asked[0]!.done();
    await turn();
    expect(replies.map(({ offset }) => offset)).toEqual([MIB, 0]);
  });

  it('lets questions wait again once the next pass stands in the stream', () => {
    const { target, scans } = held();
    target.passExpected();
    target.passBegan(KEY);
    expect(target.key).toEqual(KEY);
    target.passExpected();
    expect(target.key).toBeUndefined();
    target.request(question(0, MIB, MIB));
    expect(scans.asked.length).toBe(0);
    target.passBegan(OTHER_KEY);
    expect(scans.asked.map(({ request }) => Buffer.from(request.key))).toEqual([OTHER_KEY]);
  });

  it('refuses a key that is none', () => {
    const { target } = held();
    for (const size of [0, 15, 17]) expect(() => target.passBegan(Buffer.alloc(size))).toThrow(invalid);
  });

  it('refuses questions outside the image, waiting or not', () => {
    const { target } = held();
    const refused = (): void => {
      expect(() => target.request(question(SIZE - 512, MIB, MIB))).toThrow(invalid);
      expect(() => target.request(decode(encodeFrame(FrameType.DIGEST_REQUEST, { flags: 3, length: MIB })))).toThrow(
        invalid,
      );
    };
    refused();
    target.passBegan(KEY);
    refused();
  });

  it('holds 256 questions at a time, waiting ones included', async () => {
    const { target, scans } = held();
    for (let count = 0; count < 256; count += 1) target.request(question(0, 4096, 4096));
    expect(() => target.request(question(0, 4096, 4096))).toThrow(invalid);
    target.passBegan(KEY);
    expect(() => target.request(question(0, 4096, 4096))).toThrow(invalid);
    scans.asked[0]!.done();
    scans.asked[1]!.fail(new Failure('io-error', 'bad block'));
    await turn();
    target.request(question(0, 4096, 4096));
    target.request(question(0, 4096, 4096));
    expect(() => target.request(question(0, 4096, 4096))).toThrow(invalid);
  });

  it('tells when the image cannot be read', async () => {
    const { target, scans, failures, replies } = held();
    target.passBegan(KEY);
    target.request(question(0, MIB, MIB));
    const reason = new Failure('io-error', 'bad block');
    scans.asked[0]!.fail(reason);
    await turn();
    expect(failures).toEqual([reason]);
    expect(replies).toEqual([]);
  });

  it('sends and tells nothing after its end', async () => {
    const { target, scans, failures, replies } = held();
    target.request(question(0, MIB, MIB));
    target.passBegan(KEY);
    target.request(question(MIB, MIB, MIB));
    target.end();
    scans.asked[0]!.done();
    scans.asked[1]!.fail(new Failure('io-error', 'bad block'));
    await turn();
    expect([failures, replies]).toEqual([[], []]);
  });
});
