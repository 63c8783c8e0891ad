/**
 * The system calls that a disk needs, gathered so that a test can make the n-th of them fail, fall short or take its
 * time. `nodeCalls` is the real thing; names that end in `Now` run on the event loop, the others in the thread pool.
 */
import fs from 'node:fs';
import { advise, fallocate, fallocateNow, readCachedNow, seekNow, threadWaits } from './libc.ts';

export interface NodeCalls {
  /** Bytes read, which may be fewer than asked; 0 at the end. */
  readonly read: (descriptor: number, target: Uint8Array, offset: number) => Promise<number>;
  /** Like `read` but only from the page cache: fewer bytes, or 0, when it would have to wait. */
  readonly readCachedNow: (descriptor: number, target: Uint8Array, offset: number) => number;
  /** Bytes written, which may be fewer than asked. */
  readonly write: (descriptor: number, data: Uint8Array, offset: number) => Promise<number>;
  readonly writeNow: (descriptor: number, data: Uint8Array, offset: number) => number;
  readonly fdatasync: (descriptor: number) => Promise<void>;
  /** Like fdatasync, with the times of the file. */
  readonly fsync: (descriptor: number) => Promise<void>;
  readonly truncate: (descriptor: number, size: number) => Promise<void>;
  readonly fallocate: (descriptor: number, mode: number, offset: number, length: number) => Promise<void>;
  readonly fallocateNow: (descriptor: number, mode: number, offset: number, length: number) => void;
  /** Undefined when there is no more data or hole. */
  readonly seekNow: (descriptor: number, offset: number, target: 'data' | 'hole') => number | undefined;
  /** Advice to the kernel; never rejects. */
  readonly advise: (
    descriptor: number,
    offset: number,
    length: number,
    advice: 'will-need' | 'no-need',
  ) => Promise<void>;
  /** Milliseconds from an arbitrary origin, to notice slow calls. */
  readonly nowMs: () => number;
  /** How often this thread has waited: those calls were slow because of the disk. */
  readonly waits: () => number;
}

export const nodeCalls: NodeCalls = {
  read: (descriptor, target, offset) =>
    new Promise((resolve, reject) => {
      fs.read(descriptor, target, 0, target.length, offset, (error, size) => (error ? reject(error) : resolve(size)));
    }),
  readCachedNow,
  write: (descriptor, data, offset) =>
    new Promise((resolve, reject) => {
      fs.write(descriptor, data, 0, data.length, offset, (error, size) => (error ? reject(error) : resolve(size)));
    }),
  writeNow: (descriptor, data, offset) => fs.writeSync(descriptor, data, 0, data.length, offset),
  fdatasync: (descriptor) =>
    new Promise((resolve, reject) => {
      fs.fdatasync(descriptor, (error) => (error ? reject(error) : resolve()));
    }),
  fsync: (descriptor) =>
    new Promise((resolve, reject) => {
      fs.fsync(descriptor, (error) => (error ? reject(error) : resolve()));
    }),
  truncate: (descriptor, size) =>
    new Promise((resolve, reject) => {
      fs.ftruncate(descriptor, size, (error) => (error ? reject(error) : resolve()));
    }),
  fallocate,
  fallocateNow,
  seekNow,
  advise,
  nowMs: () => performance.now(),
  waits: threadWaits,
};
