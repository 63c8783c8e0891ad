/** Frames that ask for digests of the mirror's image and answer, as it is seen through an open staged run. */
import { Failure } from '../base/failure.ts';
import { DIGEST_SIZE, type ScanResult } from '../io/scan-pool.ts';
import { encodeFrame, type Frame, FrameType } from './frame.ts';

/** The units of digests, coarse to fine, in bytes. Flags of the digest frames name one by its index. */
export const DIGEST_UNITS = [1024 * 1024, 64 * 1024, 4 * 1024] as const;
export type DigestUnit = (typeof DIGEST_UNITS)[number];
/** Units that one request may ask for. */
export const DIGEST_COUNT_MAX = 1024;

/** DIGEST_REQUEST: the header's flags are the index of the unit, offset and length the range. No payload. */
export function encodeDigestRequest(offset: number, length: number, unit: DigestUnit): Buffer {
  return encodeFrame(FrameType.DIGEST_REQUEST, { flags: DIGEST_UNITS.indexOf(unit), offset, length });
}

/** The unit of a request or reply that lies inside a disk of `size` bytes. Failure: `frame-invalid`. */
export function digestUnitOf(frame: Frame, size: number): DigestUnit {
  const unit = DIGEST_UNITS[frame.flags];
  if (unit === undefined || frame.length === 0 || frame.offset % unit !== 0) throw invalid('digest');
  if (frame.offset + frame.length > size || Math.ceil(frame.length / unit) > DIGEST_COUNT_MAX) throw invalid('digest');
  if (frame.length % unit !== 0 && frame.offset + frame.length !== size) throw invalid('digest');
  return unit;
}

/** DIGEST_REPLY: header as in the request; payload one byte per unit (1: all zeroes), then DIGEST_SIZE bytes per unit. */
export function encodeDigestReply(request: Frame, result: ScanResult): Buffer {
  return encodeFrame(FrameType.DIGEST_REPLY, {
    flags: request.flags,
    offset: request.offset,
    length: request.length,
    payload: Buffer.concat([result.zero, result.digests]),
  });
}

export function decodeDigestReply(frame: Frame, size: number): ScanResult {
  const count = Math.ceil(frame.length / digestUnitOf(frame, size));
  if (frame.payload.length !== count * (1 + DIGEST_SIZE)) throw invalid('DIGEST_REPLY');
  return { zero: frame.payload.subarray(0, count), digests: frame.payload.subarray(count) };
}

function invalid(what: string): Failure {
  return new Failure('frame-invalid', `malformed ${what} frame`);
}
