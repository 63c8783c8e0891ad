/**
 * Modes: when a client's request is answered.
 *
 * - `async`: as soon as the local disk has done it.
 * - `flush`: writes likewise; FLUSH and FUA when durable here and on the mirror.
 * - `sync`: writes when applied here and on the mirror; FLUSH and FUA when durable on both.
 */
export const MODES = ['async', 'flush', 'sync'] as const;
export type Mode = (typeof MODES)[number];

/**
 * What becomes of requests that need a mirror when it has been away for too long.
 *
 * - `continue`: they are answered without it, as in `async`, until it is back and has everything.
 * - `stall`: they wait until it is back.
 * - `fail`: they fail until it is back.
 */
export const MIRROR_LOSSES = ['continue', 'stall', 'fail'] as const;
export type OnMirrorLoss = (typeof MIRROR_LOSSES)[number];
