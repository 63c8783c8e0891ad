/** A typed state kept in a RecordFile. */
import type { FileSystem } from '../io/disk.ts';
import { RecordFile, type RecordKind } from './record-file.ts';

export interface StateFile<State> {
  readonly state: State;
  /** Replaces the state; durable on return. */
  write(state: State): Promise<void>;
  close(): Promise<void>;
}

/** A state of some kind, kept in a RecordFile. */
class TypedRecord<State> implements StateFile<State> {
  state: State;
  readonly #file: RecordFile;
  readonly #encode: (state: State) => Buffer;

  constructor(file: RecordFile, state: State, encode: (state: State) => Buffer) {
    this.#file = file;
    this.state = state;
    this.#encode = encode;
  }

  async write(state: State): Promise<void> {
    await this.#file.write(this.#encode(state));
    this.state = state;
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

export interface StateKind<State> {
  readonly kind: RecordKind;
  encode(state: State): Buffer;
  /** Throws `state-corrupt`. */
  decode(content: Buffer): State;
}

/** Opens a state; undefined when there is none yet. Failures: `state-corrupt`, `state-unwritable`. */
export async function openStateFile<State>(
  files: FileSystem,
  kind: StateKind<State>,
  path: string,
): Promise<StateFile<State> | undefined> {
  const opened = await RecordFile.open(files, kind.kind, path);
  if (opened === undefined) return undefined;
  return new TypedRecord(opened.file, kind.decode(opened.content), (state) => kind.encode(state));
}

/** Reads a state without opening it for writing; undefined when there is none. Failures: `state-corrupt`. */
export async function readStateFile<State>(
  files: FileSystem,
  kind: StateKind<State>,
  path: string,
): Promise<State | undefined> {
  const found = await RecordFile.read(files, kind.kind, path);
  return found === undefined ? undefined : kind.decode(found.content);
}

/** Creates a state that does not exist; durable on return. */
export async function createStateFile<State>(
  files: FileSystem,
  kind: StateKind<State>,
  path: string,
  state: State,
): Promise<StateFile<State>> {
  const file = await RecordFile.create(files, kind.kind, path, kind.encode(state));
  return new TypedRecord(file, state, (next) => kind.encode(next));
}
