/** Entry of `nbdtwin`. */
import process from 'node:process';
import { runCommandLine } from './program.ts';

// Nothing that is still open may keep the process: what had to be finished has been awaited.
process.exit(await runCommandLine(process.argv.slice(2)));
