/** Scenarios: benchmarks that also show whether the product does what it claims. Exit status 1 when a claim has not held. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { killAll } from '../common/children.ts';
import { hasSection, writeSection } from '../common/docs.ts';
import { describeMachine, machineText } from '../common/machine.ts';
import { admission } from './admission.ts';
import { delayedReads } from './delayed-reads.ts';
import { dirtyMap } from './dirty-map.ts';
import { distance } from './distance.ts';
import { growth } from './growth.ts';
import { idle } from './idle.ts';
import { rescan } from './rescan.ts';
import { restartLarge } from './restart-large.ts';
import { claimLines, type ScenarioReport } from './scenario.ts';
import { slowLink } from './slow-link.ts';

const SCENARIOS = [slowLink, restartLarge, dirtyMap, distance, growth, idle, delayedReads, rescan, admission];

const USAGE = `npm run bench -- SCENARIO [options]

${SCENARIOS.map(({ name, text }) => `  ${name.padEnd(16)} ${text}`).join('\n')}

  --quick            smaller, about a minute
  --json FILE        write every figure to FILE as JSON
  --docs             write the figures to docs/benchmarks.md, where it has a section for them
  --directory DIR    where the disks go (default: a temporary folder)
`;

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      quick: { type: 'boolean', default: false },
      json: { type: 'string' },
      docs: { type: 'boolean', default: false },
      directory: { type: 'string', default: tmpdir() },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    process.stdout.write(USAGE);
    return;
  }
  const scenario = SCENARIOS.find(({ name }) => name === positionals[0]);
  if (scenario === undefined || positionals.length > 1) {
    throw new Error(
      `no such scenario: ${positionals.join(' ')} (there are: ${SCENARIOS.map(({ name }) => name).join(', ')})`,
    );
  }
  if (values.docs && !(await hasSection(scenario.name)))
    throw new Error(`docs/benchmarks.md has no section ${scenario.name}`);
  const folder = await mkdtemp(join(resolve(values.directory), 'nbdtwin-bench-'));
  const machine = await describeMachine(folder, scenario.programs);
  const { text, ...outcome } = await scenario.run(folder, values.quick, say).catch((error: unknown) => {
    say(`What the processes said is in ${folder}`);
    throw error;
  });
  const report: ScenarioReport = { version: 1, scenario: scenario.name, quick: values.quick, machine, ...outcome };
  if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify(report, null, 2)}\n`);
  const head = `${machineText(machine)}${values.quick ? ', --quick' : ''}`;
  const formatted = `${head}\n${text}\n\n${claimLines(outcome.claims).join('\n')}`.trimEnd();
  if (values.docs) await writeSection(scenario.name, formatted);
  process.stdout.write(`${formatted}\n`);
  if (outcome.claims.every(({ held }) => held)) await rm(folder, { recursive: true });
  else {
    say(`What is left is in ${folder}`);
    process.exitCode = 1;
  }
}

// However this ends, no process outlives it.
process.once('exit', killAll);
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(130));
await main();
