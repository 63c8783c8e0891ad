/**
 * Big-endian integers in byte arrays, by shifts: a DataView for each message costs more than the message.
 * 64-bit integers are numbers, exact up to 2^53 - 1; above that the result is rounded and never below 2^53.
 */

export const U32_MAX = 0xffff_ffff;
const U32_RANGE = 0x1_0000_0000;

export const EMPTY: Uint8Array = new Uint8Array(0);

export function getU16(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!;
}

export function getU32(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
}

export function getU64(bytes: Uint8Array, at: number): number {
  return getU32(bytes, at) * U32_RANGE + getU32(bytes, at + 4);
}

export function getBigU64(bytes: Uint8Array, at: number): bigint {
  return (BigInt(getU32(bytes, at)) << 32n) | BigInt(getU32(bytes, at + 4));
}

export function putU16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}

export function putU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}

/** Writes 0 .. 2^53 - 1. */
export function putU64(bytes: Uint8Array, at: number, value: number): void {
  putU32(bytes, at, Math.floor(value / U32_RANGE));
  putU32(bytes, at + 4, value >>> 0);
}

export function putBigU64(bytes: Uint8Array, at: number, value: bigint): void {
  putU32(bytes, at, Number(value >> 32n));
  putU32(bytes, at + 4, Number(value & 0xffff_ffffn));
}

export function concat(parts: readonly Uint8Array[]): Uint8Array {
  const joined = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

/** Guards an encoder: what it is given comes from the caller, so a wrong value is a bug there, not a peer's fault. */
export function requireInteger(value: number, max: number, what: string): void {
  if (!Number.isInteger(value) || value < 0 || value > max) {
    throw new RangeError(`${what} is ${value}; it must be an integer from 0 to ${max}`);
  }
}
