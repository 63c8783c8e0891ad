/**
 * Modes: when a client's request is answered.
 *
 * - `async`: as soon as the local disk has done it.
 * - `flush`: writes likewise; FLUSH and FUA when durable here and on the mirror.
 * - `sync`: writes when applied here and on the mirror; FLUSH and FUA when durable on both.
 */
export const MODES = ['async', 'flush', 'sync'] as const;
export type Mode = (typeof MODES)[number];
