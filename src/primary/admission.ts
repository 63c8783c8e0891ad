/** Waiting for a place: a mirror host takes a few rescans at a time and tells the others where they stand. */
import { Failure } from '../base/failure.ts';
import type { Log } from '../base/log.ts';
import type { Channel } from '../link/channel.ts';
import { encodeFrame, FrameType } from '../link/frame.ts';
import { decodeRefused } from '../link/messages.ts';

/** While others rescan, the mirror only pings; the longest wait a timer can hold. */
const QUEUE_TIMEOUT_MS = 2 ** 31 - 1;

/**
 * Resolves when the mirror lets the rescan begin; until then `placed` is called with each place in the queue, from 1.
 * Failures: the mirror's refusal, the end of the channel.
 */
export async function admission(channel: Channel, log: Log, placed: (place: number) => void): Promise<void> {
  channel.send([encodeFrame(FrameType.RESCAN_REQUEST)]);
  for (;;) {
    const frame = await channel.take(QUEUE_TIMEOUT_MS);
    if (frame.type === FrameType.REFUSED) throw decodeRefused(frame);
    if (frame.type !== FrameType.RESCAN_PLACE) {
      throw new Failure('frame-invalid', 'the mirror does not name a place in the queue');
    }
    if (frame.length === 0) return;
    placed(frame.length);
    log.info({ place: frame.length }, 'the mirror is busy with other rescans: waiting');
  }
}
