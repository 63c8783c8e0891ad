import { NO_ID } from '../../../src/base/bytes.ts';
import { silentLog } from '../../../src/base/log.ts';
import { KIB } from '../../../src/base/units.ts';
import type { Frame, FrameTypeCode } from '../../../src/link/frame.ts';
import { encodeFrame, FrameDecoder, FrameType } from '../../../src/link/frame.ts';
import { type Begin, BeginKind, type Hello, isStaged } from '../../../src/link/messages.ts';
import { MirrorImage } from '../../../src/mirror/image.ts';
import type { MemoryDisk } from '../../support/memory-disk.ts';
import { type MemoryWorld, memoryWorld } from '../../support/memory-world.ts';

export const SIZE = 64 * KIB;
export const IMAGE = '/mirrors/disk.img';
export const STATE = `${IMAGE}.twin/mirror`;

export const HELLO: Hello = {
  versionMin: 2,
  versionMax: 2,
  mode: 'async',
  volumeId: Buffer.alloc(16, 1),
  generation: Buffer.alloc(16, 2),
  run: Buffer.alloc(16, 3),
  parentRun: Buffer.alloc(16),
  parentSequence: 0,
  size: SIZE,
  windowSize: 8 * KIB,
  mapVersion: 0,
  exportName: 'disk',
};

export function beginning(kind: keyof typeof BeginKind, sequence = 0, sentMax = sequence): Begin {
  const stagingId = isStaged(BeginKind[kind]) ? Buffer.alloc(16, 4) : NO_ID;
  return { kind: BeginKind[kind], sequence, sentMax, stagingId };
}

/** A frame as it arrives. */
export function frame(
  type: FrameTypeCode,
  fields: { flags?: number; sequence?: number; offset?: number; length?: number; payload?: Uint8Array } = {},
): Frame {
  const decoder = new FrameDecoder();
  decoder.admitData();
  decoder.push(encodeFrame(type, fields));
  return decoder.next()!;
}

export function write(sequence: number, offset: number, length: number, fill: number, flags = 0): Frame {
  return frame(FrameType.WRITE, { flags, sequence, offset, length, payload: Buffer.alloc(length, fill) });
}

export function zero(sequence: number, offset: number, length: number, flags = 0): Frame {
  return frame(FrameType.ZERO, { flags, sequence, offset, length });
}

export function barrier(sequence: number): Frame {
  return frame(FrameType.BARRIER, { sequence });
}

/** An image in memory, newly made, and its disk. */
export async function newImage(): Promise<{ world: MemoryWorld; image: MirrorImage; disk: MemoryDisk }> {
  const world = memoryWorld();
  const image = await MirrorImage.create(world, '/mirrors', 'disk', HELLO);
  return { world, image, disk: world.files.file(IMAGE).disk };
}

/** An image that has been seeded and is in step, at sequence 0. */
export async function imageInStep(): Promise<{ world: MemoryWorld; image: MirrorImage; disk: MemoryDisk }> {
  const parts = await newImage();
  await parts.image.begin(HELLO, beginning('SEEDING'));
  await parts.image.checkpoint(1, 0, true);
  await parts.image.begin(HELLO, beginning('CATCH_UP'));
  return parts;
}

/** The image as a new process finds it. */
export function reopen(world: MemoryWorld): Promise<MirrorImage | undefined> {
  return MirrorImage.open(world, silentLog, '/mirrors', 'disk');
}

/** A crash of the mirror: what it had open is gone, what it had written is there. */
export function crash(world: MemoryWorld): void {
  world.files.file(IMAGE).locked = false;
}
