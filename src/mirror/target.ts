/** Where the frames of the stream go: the image itself, or a staged run over it. The applier knows no other way. */

export interface Target {
  /** Bytes of the disk as the primary has it. */
  readonly size: number;
  /** The last operation that a reader of the target sees. */
  readonly applied: number;
  /** True: operations come one by one, none is left out. False: a comparison or a merge may leave some out. */
  readonly inOrder: boolean;
  /** True when something was applied that `record` would write down. */
  readonly unrecorded: boolean;
  /** Throws when what was applied in this session proves nothing any more. */
  checkSound(): void;
  /** The buffer belongs to the target until the call has finished. Failures: of the disk, `staging-full`. */
  write(data: Buffer, offset: number): void | Promise<void>;
  zero(offset: number, length: number): void | Promise<void>;
  read(into: Buffer, offset: number): void | Promise<void>;
  /** Everything up to that sequence is in the target. */
  setApplied(sequence: number): void;
  /** Ends an epoch: nothing of the next may be applied before it resolves. Undefined: nothing to wait for. */
  barrier(): Promise<void> | undefined;
  /** Makes what was applied durable and writes the position down. */
  record(): Promise<void>;
  /** A checkpoint of a pass: durable and written down on return. */
  checkpoint(number: number, sequence: number): Promise<void>;
  /** What was begun is whole: afterwards the image itself is at `sequence`, durably. */
  complete(number: number, sequence: number): Promise<void>;
}
