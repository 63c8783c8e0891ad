import { defineConfig } from 'vitest/config';

/** Tests read the workspace package from its source, never from a dist that may be stale. */
const sourceConditions = { resolve: { conditions: ['source'] } };

export default defineConfig({
  ssr: sourceConditions,
  ...sourceConditions,
  test: {
    include: ['test/**/*.test.ts', 'packages/*/test/**/*.test.ts'],
    globalSetup: [],
    testTimeout: 60_000,
    hookTimeout: 120_000,
    maxWorkers: 2,
  },
});
