/** What the event loop and the thread of the link say to each other. Each stream has a number, given out by the event loop. */
import type { FailureCode } from '../base/failure.ts';
import type { PresharedKey } from '../secure/tls.ts';
import type { Address } from './network.ts';

/** Bytes of the ring in which what is sent waits for the thread. */
export const RING_CAPACITY = 4 * 2 ** 20;
/** When no more than this waits there, more may come. */
export const RING_LOW_SIZE = 256 * 1024;
/** What a message costs besides its bytes, in bytes: many that are small must not pass for little. */
export const MESSAGE_COST_SIZE = 512;
/** With so many bytes on their way to the event loop, the thread reads no more. */
export const DATA_SIZE_MAX = 4 * 2 ** 20;
/** The event loop says that it has taken some when they are so many. */
export const TAKEN_SIZE = 2 ** 20;

export type ToThread =
  | {
      readonly type: 'connect';
      readonly id: number;
      readonly address: Address;
      readonly key: PresharedKey;
      readonly timeoutMs: number;
      readonly ring: SharedArrayBuffer;
    }
  /** `wake`: the ring has something; `end`: after what is in it, our direction ends. */
  | { readonly type: 'wake' | 'end' | 'destroy'; readonly id: number }
  /** That many more bytes of `data` have been passed on. */
  | { readonly type: 'taken'; readonly id: number; readonly size: number };

export interface ToldFailure {
  readonly code: FailureCode;
  readonly message: string;
}

export type FromThread =
  | {
      readonly type: 'connected';
      readonly id: number;
      readonly peerName: string;
      readonly identity: string | undefined;
    }
  | { readonly type: 'failed'; readonly id: number; readonly failure: ToldFailure }
  | { readonly type: 'data'; readonly id: number; readonly bytes: Uint8Array }
  /** `room`: at most RING_LOW_SIZE bytes wait in the ring. */
  | { readonly type: 'room' | 'end'; readonly id: number }
  | { readonly type: 'closed'; readonly id: number; readonly failure: ToldFailure | undefined };
