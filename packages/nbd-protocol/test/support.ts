import { expect } from 'vitest';
import { type Decoder, ProtocolError, type ProtocolErrorCode } from '../src/index.ts';

/** Bytes from hex digits; white space, and all from a semicolon to the end of its line, is for the reader. */
export function hex(text: string): Uint8Array {
  const digits = text.replaceAll(/;.*$/gm, '').replaceAll(/\s/g, '');
  if (!/^([0-9a-f]{2})*$/.test(digits)) throw new Error(`not hex: ${digits}`);
  return Uint8Array.from({ length: digits.length / 2 }, (_, index) =>
    Number.parseInt(digits.slice(2 * index, 2 * index + 2), 16),
  );
}

export function utf8(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

export function join(...parts: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

/** Every message that comes out when these chunks go in, decoded as they arrive. */
export function decodeAll<Message>(decoder: Decoder<Message>, ...chunks: readonly Uint8Array[]): Message[] {
  const messages: Message[] = [];
  for (const chunk of chunks) {
    decoder.push(chunk);
    for (let message = decoder.next(); message !== undefined; message = decoder.next()) messages.push(message);
  }
  return messages;
}

/** `bytes` cut at each of `points`, which ascend. */
export function cut(bytes: Uint8Array, points: readonly number[]): Uint8Array[] {
  return [...points, bytes.length].map((point, index) => bytes.slice(index === 0 ? 0 : points[index - 1], point));
}

/** For `test.each` with `%s`, which prints a name as it is. */
export function named<Item extends { readonly name: string }>(items: readonly Item[]): [name: string, item: Item][] {
  return items.map((item) => [item.name, item]);
}

/** The code with which decoding ends; fails unless the decoder is dead, and has let go of everything, from then on. */
export function violation(decoder: Decoder<unknown>, ...chunks: readonly Uint8Array[]): ProtocolErrorCode {
  const error = catchError(() => decodeAll(decoder, ...chunks));
  if (!(error instanceof ProtocolError)) throw new Error('no violation', { cause: error });
  decoder.push(new Uint8Array(100));
  expect(catchError(() => decoder.next())).toBe(error);
  expect(decoder.rest()).toHaveLength(0);
  return error.code;
}

function catchError(action: () => unknown): unknown {
  try {
    action();
  } catch (error) {
    return error;
  }
  return undefined;
}
