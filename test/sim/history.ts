/**
 * What the primary's disk was, at every sequence of every run: the model that the mirror is judged by.
 *
 * A run begins with the content that the disk really has when the primary has been opened (after a power loss that is
 * whatever the medium kept); from then on each operation is taken from the ledger at the moment at which it gets its
 * sequence, with the very bytes that were written.
 */
import { assert } from '../../src/base/assert.ts';
import type { Content } from './content.ts';

export interface Operation {
  readonly sequence: number;
  readonly offset: number;
  readonly length: number;
  /** Undefined: zeroes. */
  readonly data: Uint8Array | undefined;
}

/** A content is kept every so many operations. */
const SNAPSHOT_INTERVAL = 128;

export class Run {
  readonly id: string;
  readonly baseSequence: number;
  /** Run that was handed on to this one by a clean stop: its operations are the first of this one. */
  readonly parent: Run | undefined;
  /** Places at which an epoch ends, ascending. */
  readonly barriers: number[];
  /** Runs in the order in which they began. */
  number = 0;
  /** The content after the last operation. */
  readonly current: Content;
  readonly #operations: Operation[] = [];
  readonly #snapshots: { readonly sequence: number; readonly content: Content }[];
  #lastAsked: { readonly sequence: number; readonly content: Content };

  /** `content` is that of the disk now; it is copied. */
  constructor(id: string, content: Content, baseSequence: number, parent: Run | undefined) {
    this.id = id;
    this.baseSequence = baseSequence;
    this.barriers = parent === undefined ? [] : parent.barriers.slice();
    this.parent = parent;
    this.current = content.clone();
    const first = { sequence: baseSequence, content: content.clone() };
    this.#snapshots = [first];
    this.#lastAsked = first;
  }

  /** True when that run's operations are the first of this one, or it is the same. */
  goesOnFrom(run: Run): boolean {
    return run === this || this.parent?.goesOnFrom(run) === true;
  }

  /** The earliest position of which the content is known. */
  get firstSequence(): number {
    return this.parent?.firstSequence ?? this.baseSequence;
  }

  /** Sequence of the last operation. */
  get sequence(): number {
    return this.baseSequence + this.#operations.length;
  }

  append(operation: Operation): void {
    assert(operation.sequence === this.sequence + 1, 'the ledger counts without gaps');
    this.#operations.push(operation);
    perform(this.current, operation);
    if (this.#operations.length % SNAPSHOT_INTERVAL === 0) {
      this.#snapshots.push({ sequence: operation.sequence, content: this.current.clone() });
    }
  }

  /** An epoch ends here. */
  barrier(): void {
    if (this.barriers.at(-1) !== this.sequence) this.barriers.push(this.sequence);
  }

  /** The operation with that sequence. */
  operation(sequence: number): Operation {
    if (this.parent !== undefined && sequence <= this.baseSequence) return this.parent.operation(sequence);
    const operation = this.#operations[sequence - this.baseSequence - 1];
    assert(operation !== undefined, `an operation ${sequence} of the run`);
    return operation;
  }

  /** The content after that sequence; not to be changed. */
  contentAt(sequence: number): Content {
    if (this.parent !== undefined && sequence < this.baseSequence) return this.parent.contentAt(sequence);
    if (sequence === this.sequence) return this.current;
    if (this.#lastAsked.sequence === sequence) return this.#lastAsked.content;
    let from = this.#lastAsked.sequence < sequence ? this.#lastAsked : this.#snapshots[0]!;
    const index = Math.floor((sequence - this.baseSequence) / SNAPSHOT_INTERVAL);
    const snapshot = this.#snapshots[index];
    if (snapshot !== undefined && snapshot.sequence > from.sequence) from = snapshot;
    assert(from.sequence <= sequence && sequence <= this.sequence, 'a position of the run');
    const content = from.content.clone();
    for (let at = from.sequence + 1; at <= sequence; at += 1) perform(content, this.operation(at));
    this.#lastAsked = { sequence, content };
    return content;
  }
}

export class History {
  readonly #runs = new Map<string, Run>();
  #latest: Run | undefined;

  get latest(): Run | undefined {
    return this.#latest;
  }

  begin(run: Run): void {
    run.number = this.#runs.size;
    this.#runs.set(run.id, run);
    this.#latest = run;
  }

  get(id: string): Run | undefined {
    return this.#runs.get(id);
  }
}

function perform(content: Content, operation: Operation): void {
  if (operation.data === undefined) content.zero(operation.offset, operation.length);
  else content.write(operation.data, operation.offset);
}
