/** Bytes that requests are counted as in an Account. */
import { Command, type Request } from 'nbd-protocol';
import { BLOCK_STATUS_COST, PAYLOAD_MAX, REQUEST_COST } from './limits.ts';

/** Bytes that a request occupies from its arrival until its reply has left. */
export function costOf(request: Request): number {
  if (request.fault !== undefined) return REQUEST_COST;
  switch (request.command) {
    case Command.READ:
      return REQUEST_COST + Math.min(request.length, PAYLOAD_MAX);
    case Command.WRITE:
      return REQUEST_COST + request.length;
    case Command.BLOCK_STATUS:
      return BLOCK_STATUS_COST;
    default:
      return REQUEST_COST;
  }
}

/** For a payload of which only the size is known yet: enough for any request that can have it. */
export function arrivingCostOf(size: number): number {
  return Math.max(REQUEST_COST + size, BLOCK_STATUS_COST);
}
