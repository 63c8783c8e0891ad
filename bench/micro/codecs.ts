/** The two codecs that every forwarded write passes: NBD requests in, frames of the link out and in. */
import { Command, encodeRequest, RequestDecoder } from 'nbd-protocol';
import { encodeFrame, FrameDecoder, FrameType, HEADER_SIZE, putHeader } from '../../dist/link/frame.js';
import { type Figure, measure } from './measure.ts';

/** What a socket delivers at a time. */
const CHUNK_SIZE = 64 * 1024;
const MESSAGES = 256;

function chunksOf(bytes: Buffer): Buffer[] {
  const chunks: Buffer[] = [];
  for (let offset = 0; offset < bytes.length; offset += CHUNK_SIZE) {
    chunks.push(bytes.subarray(offset, offset + CHUNK_SIZE));
  }
  return chunks;
}

function benchRequests(name: string, command: Command, payloadSize: number): Figure {
  const payload = Buffer.alloc(payloadSize, 0x5a);
  const messages = Array.from({ length: MESSAGES }, (_, index) => {
    const length = Math.max(payloadSize, 4096);
    const header = encodeRequest({ command, cookieHigh: 0, cookieLow: index, offset: index * 4096, length }, false);
    return Buffer.concat([header, payload]);
  });
  const chunks = chunksOf(Buffer.concat(messages));
  return measure(name, MESSAGES, () => {
    const decoder = new RequestDecoder({ extended: false });
    let sum = 0;
    for (const chunk of chunks) {
      decoder.push(chunk);
      for (let request = decoder.next(); request !== undefined; request = decoder.next()) {
        sum += request.offset + (request.payload?.length ?? 0);
      }
    }
    return sum;
  });
}

function benchFrames(name: string, payloadSize: number): Figure {
  const payload = Buffer.alloc(payloadSize, 0x5a);
  const frames = Array.from({ length: MESSAGES }, (_, index) =>
    encodeFrame(FrameType.WRITE, { sequence: index + 1, offset: index * 4096, length: payloadSize, payload }),
  );
  const chunks = chunksOf(Buffer.concat(frames));
  return measure(name, MESSAGES, () => {
    const decoder = new FrameDecoder();
    decoder.admitData();
    let sum = 0;
    for (const chunk of chunks) {
      decoder.push(chunk);
      for (let frame = decoder.next(); frame !== undefined; frame = decoder.next()) sum += frame.offset + frame.length;
    }
    return sum;
  });
}

function benchHeaders(): Figure {
  const target = Buffer.alloc(HEADER_SIZE * MESSAGES);
  return measure('link: write the header of a frame', MESSAGES, () => {
    for (let index = 0; index < MESSAGES; index += 1) {
      putHeader(target, index * HEADER_SIZE, FrameType.WRITE, 0, 4096, index + 1, index * 4096, 4096);
    }
    return target[HEADER_SIZE * MESSAGES - 1]!;
  });
}

export function benchCodecs(): Figure[] {
  return [
    benchRequests('nbd: decode a read request', Command.READ, 0),
    benchRequests('nbd: decode a write request of 4 KiB', Command.WRITE, 4096),
    benchRequests('nbd: decode a write request of 64 KiB', Command.WRITE, 65536),
    benchHeaders(),
    benchFrames('link: decode a write frame of 4 KiB', 4096),
    benchFrames('link: decode a write frame of 64 KiB', 65536),
  ];
}
