import { writeFileSync } from 'node:fs';
import type { Reporter, TestModule } from 'vitest/node';

/** What a run came to. Suites that could not be loaded and errors outside any test count as failed. */
interface RunSummary {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

/**
 * Counts, and holds the rule that nothing is left out unseen: with CI=true a run in which a test was skipped fails.
 * With $NBDTWIN_TEST_SUMMARY the counts are written to that file as JSON, for the closing line of bin/test.mjs.
 */
export default class SummaryReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandledErrors: readonly unknown[]): void {
    const summary = summarise(modules, unhandledErrors.length);
    if (isContinuousIntegration() && summary.skipped > 0) {
      for (const name of skippedTests(modules)) process.stderr.write(`SKIPPED ${name}\n`);
      process.stderr.write(`With CI=true a skipped test is a failure: ${summary.skipped} skipped.\n`);
      process.exitCode = 1;
    }
    const path = process.env['NBDTWIN_TEST_SUMMARY'];
    if (path !== undefined) writeFileSync(path, JSON.stringify(summary));
  }
}

export function isContinuousIntegration(): boolean {
  return process.env['CI'] === 'true';
}

export function summarise(modules: readonly TestModule[], unhandledErrors: number): RunSummary {
  let passed = 0;
  let failed = unhandledErrors;
  let skipped = 0;
  for (const module of modules) {
    let failedHere = 0;
    for (const test of module.children.allTests()) {
      const { state } = test.result();
      if (state === 'passed') passed += 1;
      else if (state === 'skipped') skipped += 1;
      // A test that is still pending when the run is over was cut short.
      else failedHere += 1;
    }
    // A suite whose file or hooks failed has no failed test that would say so.
    if (failedHere === 0 && module.state() === 'failed') failedHere = 1;
    failed += failedHere;
  }
  return { passed, failed, skipped };
}

function skippedTests(modules: readonly TestModule[]): string[] {
  return modules.flatMap((module) => [...module.children.allTests('skipped')].map((test) => test.fullName));
}
