/** Worlds beside the simulation's own: the product's code on copies of disks, while the simulation stands still. */
import type { World } from '../../src/io/world.ts';
import { Host } from './host.ts';
import type { Medium } from './medium.ts';
import { SimulatedNetwork } from './network.ts';
import { SeededRandom } from './random.ts';
import { Timeline } from './timeline.ts';

/** Runs code on a medium that is nobody else's, in a time of its own, to its end. */
export async function inSideWorld<T>(medium: Medium, run: (world: World) => Promise<T>): Promise<T> {
  const random = new SeededRandom(1);
  const timeline = new Timeline(random);
  const host = new Host('side', timeline, random, new SimulatedNetwork(timeline, random), medium);
  const { world } = host.boot(() => undefined);
  host.pace.atOnce = 1;
  let settled = false;
  const result = run(world).finally(() => {
    settled = true;
  });
  // Whoever waits for it takes the failure.
  result.catch(() => undefined);
  while (!settled) {
    await turn();
    if (!settled && !timeline.step()) throw new Error('code in a side world waits for something that never happens');
  }
  return result;
}

/** Lets everything that has settled be taken note of: all microtasks, to the last. */
export function turn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}
