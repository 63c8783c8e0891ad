import type { Random } from '../io/random.ts';
import type { Checkpoints } from './checkpoints.ts';
import type { ComparisonMeans } from './comparison.ts';
import type { MergedMeans } from './merged-run.ts';
import type { Replica } from './replica.ts';

/** What a session lends to the sending of a merged part. `done`: the number of each checkpoint that the mirror holds. */
export function mergedMeans(
  means: ComparisonMeans,
  random: Random,
  replica: Replica,
  checkpoints: Checkpoints,
  done: (number: number) => void,
): MergedMeans {
  const ended = (): boolean => means.ended();
  return {
    clock: means.clock,
    random,
    sequence: () => replica.window.lastSequence,
    remark: (type, flags, sequence, offset, length, data) =>
      replica.remark(type, flags, offset, length, data, sequence),
    place: async (complete, sequence) => {
      const placed = await checkpoints.place(complete, sequence);
      done(placed.number);
      return placed;
    },
    room: (size) => means.pacing.room(size, ended),
    ended,
  };
}
