import { expect, it } from 'vitest';
import { isLinuxSince } from '../../../src/io/scan-piece.ts';

it('releases of the kernel are compared by their numbers', () => {
  for (const later of ['6.16.0', '6.16.0-rc1', '6.18.44-fc-v669', '7.0.1', '10.2']) {
    expect(isLinuxSince(6, 16, later), later).toBe(true);
  }
  for (const earlier of ['6.15.9', '6.1.0-28-amd64', '5.99.1', '4.19', '', 'unknown']) {
    expect(isLinuxSince(6, 16, earlier), earlier).toBe(false);
  }
});
