import { type ReplyMode, TransmissionFlag } from 'nbd-protocol';
import { Failure } from '../base/failure.ts';
import type { Volume } from '../volume/volume.ts';

/** A volume under a name. The server never closes the volume. */
export interface Export {
  /** What clients ask for: any text without NUL, up to 4096 bytes of UTF-8. */
  readonly name: string;
  /** For people; may be empty. */
  readonly description: string;
  readonly volume: Volume;
  /** Also reached by the empty name. At most one export of a server is the default. */
  readonly isDefault: boolean;
}

/** The exports of a server, by name. */
export class ExportTable {
  readonly all: readonly Export[];
  readonly #byName = new Map<string, Export>();

  /** Failure `config-invalid` when two exports have one name, or two are the default. */
  constructor(exports: readonly Export[]) {
    this.all = exports;
    for (const entry of exports) {
      for (const name of entry.isDefault ? new Set([entry.name, '']) : [entry.name]) {
        if (this.#byName.has(name)) throw new Failure('config-invalid', `two exports are reached as ‘${name}’`);
        this.#byName.set(name, entry);
      }
    }
  }

  find(name: string): Export | undefined {
    return this.#byName.get(name);
  }
}

/** @see NBD spec, "Transmission flags" */
export function transmissionFlags(volume: Volume, mode: ReplyMode, hasContexts: boolean): number {
  let flags =
    TransmissionFlag.HAS_FLAGS |
    TransmissionFlag.SEND_FLUSH |
    TransmissionFlag.SEND_FUA |
    TransmissionFlag.CAN_MULTI_CONN |
    TransmissionFlag.SEND_CACHE;
  if (volume.readOnly) flags |= TransmissionFlag.READ_ONLY;
  else {
    flags |= TransmissionFlag.SEND_TRIM | TransmissionFlag.SEND_WRITE_ZEROES | TransmissionFlag.SEND_FAST_ZERO;
  }
  if (mode !== 'simple') flags |= TransmissionFlag.SEND_DF;
  if (mode === 'extended' && hasContexts) flags |= TransmissionFlag.BLOCK_STATUS_PAYLOAD;
  return flags;
}
