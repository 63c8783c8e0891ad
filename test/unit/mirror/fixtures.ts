import { NO_ID } from '../../../src/base/bytes.ts';
import { Failure, type FailureCode } from '../../../src/base/failure.ts';
import { silentLog } from '../../../src/base/log.ts';
import { KIB } from '../../../src/base/units.ts';
import type { Frame, FrameTypeCode } from '../../../src/link/frame.ts';
import { encodeFrame, FrameDecoder, FrameType } from '../../../src/link/frame.ts';
import { type Begin, BeginKind, type Hello, isStaged } from '../../../src/link/messages.ts';
import { MirrorImage } from '../../../src/mirror/image.ts';
import type { StagingRules } from '../../../src/mirror/image-state.ts';
import type { MemoryDisk, MemoryDiskCall } from '../../support/memory-disk.ts';
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
export async function newImage(
  rules?: StagingRules,
): Promise<{ world: MemoryWorld; image: MirrorImage; disk: MemoryDisk }> {
  const world = memoryWorld();
  const image = await MirrorImage.create(world, silentLog, '/mirrors', 'disk', HELLO, rules);
  return { world, image, disk: world.files.file(IMAGE).disk };
}

/** An image that has been seeded and is in step, at sequence 0. */
export async function imageInStep(
  rules?: StagingRules,
): Promise<{ world: MemoryWorld; image: MirrorImage; disk: MemoryDisk }> {
  const parts = await newImage(rules);
  await parts.image.begin(HELLO, beginning('SEEDING'));
  await parts.image.complete(1, 0);
  await parts.image.begin(HELLO, beginning('CATCH_UP'));
  return parts;
}

/** The image as a new process finds it. */
export function reopen(world: MemoryWorld, rules?: StagingRules): Promise<MirrorImage | undefined> {
  return MirrorImage.open(world, silentLog, '/mirrors', 'disk', rules);
}

/** A crash of the mirror's process: what it had open is gone, what it had written is there. */
export function crash(world: MemoryWorld): void {
  world.files.killProcess();
}

/** The host loses power: what is not durable is gone, and a new process opens the image. */
export async function powerLoss(world: MemoryWorld, rules?: StagingRules): Promise<MirrorImage> {
  world.files.losePower();
  return (await reopen(world, rules))!;
}

/** Calls of that kind fail from now on. */
export function failing(disk: MemoryDisk, call: MemoryDiskCall, code: FailureCode = 'io-error'): void {
  disk.hook = (made) => (made === call ? Promise.reject(new Failure(code, 'injected')) : undefined);
}
