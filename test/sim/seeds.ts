/** Seeds that found something once, with what it was. They are lived again by every run of the tests. */

export interface KnownSeed {
  readonly seed: number;
  readonly steps: number;
  readonly note: string;
}

export const KNOWN_SEEDS: readonly KnownSeed[] = [
  {
    seed: 300,
    steps: 15_000,
    note: 'the state of a primary without a whole record: its newest slot was never durable',
  },
  { seed: 2082, steps: 15_000, note: 'a bad block under a staged run ended the process of the mirror' },
  {
    seed: 2008,
    steps: 15_000,
    note: 'time stood still: a timer that fired a rounding error too early set itself again',
  },
  {
    seed: 940063,
    steps: 15_000,
    note: 'a merged part was announced while the question before it was about to end: it was never sent',
  },
  {
    seed: 13,
    steps: 20_000,
    note: 'the staged catch-up of a session that ended within a merged part was committed with a piece of that part',
  },
  {
    seed: 1795423210,
    steps: 15_000,
    note: 'repairs had filled the window; once they were sent nobody went on reading the spool, and seeding never ended',
  },
  {
    seed: 301530451,
    steps: 15_000,
    note: 'the judge held the mirror to promises of `sync` that a failed sync of its own disk had taken back',
  },
  {
    seed: 47816400,
    steps: 15_000,
    note: 'an older copy of a primary, let through by --rescan, told versions up to the one that the mirror had seen, and died unmarked',
  },
  {
    seed: 45_812_835,
    steps: 15_000,
    note: 'reading back the spool took the window over its limit by what its entries cost besides their data',
  },
  {
    seed: 1_272_768_257,
    steps: 15_000,
    note: 'while a large record was folded into a merged part, operations that came meanwhile took the room for it: the spool passed its limit',
  },
  {
    seed: 1_199_128_092,
    steps: 15_000,
    note: 'the judge looked at an image while a write that was going to fail had happened in part',
  },
];
