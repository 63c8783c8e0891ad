/** The micro benchmarks: single parts on the way of a request, without sockets or disks. --json FILE keeps the figures. */
import { writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { benchAdmission } from './admission.ts';
import { benchCodecs } from './codecs.ts';
import { benchRanges } from './ranges.ts';

const { values } = parseArgs({ options: { json: { type: 'string' } } });

const figures = [...benchCodecs(), ...benchRanges(), ...(await benchAdmission())];
const width = Math.max(...figures.map(({ name }) => name.length));
for (const { name, nsPerOperation } of figures) {
  const { median, min, max } = nsPerOperation;
  const text = `${median.toFixed(0).padStart(7)} ns  [${min.toFixed(0)}, ${max.toFixed(0)}]`;
  process.stdout.write(`${name.padEnd(width)}  ${text}  ${(1e9 / median / 1e6).toFixed(2)} M/s\n`);
}
if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify(figures, null, 2)}\n`);
