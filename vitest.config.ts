import { defineConfig, type TestProjectInlineConfiguration } from 'vitest/config';

/** Tests read the workspace package from its source, never from a dist that may be stale. */
const sourceConditions = { resolve: { conditions: ['source'] } };

/** Groups run one after the other: real processes and kernels last, so that no suite competes with them for the CPU. */
function project(
  name: string,
  group: number,
  test: NonNullable<TestProjectInlineConfiguration['test']>,
): TestProjectInlineConfiguration {
  return {
    ssr: sourceConditions,
    ...sourceConditions,
    test: { testTimeout: 60_000, hookTimeout: 120_000, maxWorkers: 2, ...test, name, sequence: { groupOrder: group } },
  };
}

const installPeers = 'test/support/install-peers.ts';

export default defineConfig({
  test: {
    reporters: ['default', './test/support/reporter.ts'],
    projects: [
      project('form', 0, { include: ['test/tidy/**/*.test.ts'] }),
      project('code', 1, {
        include: ['test/{unit,sim,bench}/**/*.test.ts', 'packages/*/test/**/*.test.ts'],
        globalSetup: [installPeers],
      }),
      project('system', 2, {
        include: ['test/{cli,interop,crash}/**/*.test.ts'],
        globalSetup: [installPeers],
        testTimeout: 120_000,
      }),
    ],
  },
});
