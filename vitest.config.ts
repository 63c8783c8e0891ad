import { defineConfig } from 'vitest/config';

/** Tests read the workspace package from its source, never from a dist that may be stale. */
const sourceConditions = { resolve: { conditions: ['source'] } };

const common = { testTimeout: 60_000, hookTimeout: 120_000 };

export default defineConfig({
  test: {
    reporters: ['default', './test/support/reporter.ts'],
    projects: [
      {
        ssr: sourceConditions,
        ...sourceConditions,
        test: {
          ...common,
          name: 'code',
          include: ['test/{unit,sim,bench,tidy}/**/*.test.ts', 'packages/*/test/**/*.test.ts'],
          maxWorkers: 2,
          sequence: { groupOrder: 0 },
        },
      },
      {
        // Real processes, loop devices and kernels: after the code suites, so that these do not take the CPU from them.
        ssr: sourceConditions,
        ...sourceConditions,
        test: {
          ...common,
          name: 'system',
          include: ['test/{cli,interop,crash}/**/*.test.ts'],
          globalSetup: ['test/support/install-peers.ts'],
          testTimeout: 120_000,
          maxWorkers: 2,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
