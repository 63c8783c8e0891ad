/**
 * Observes the ledger of the primary: each operation in the order of its sequence, at the moment at which it gets one,
 * and each barrier. That is the order that the mirror has to keep (G1), so nothing less exact will do.
 */
import { Ledger } from '../../src/primary/ledger.ts';

export interface LedgerWatcher {
  operation(sequence: number, offset: number, length: number, data: Uint8Array | undefined): void;
  barrier(): void;
  /** Bytes of which the primary itself does not know what they are. */
  unknown(offset: number, length: number): void;
}

const watchers = new WeakMap<Ledger, LedgerWatcher>();
let next: LedgerWatcher | undefined;
let installed = false;

/** The next ledger that is made, and used, is this watcher's. */
export function watchNextLedger(watcher: LedgerWatcher): void {
  next = watcher;
  if (!installed) install();
}

function watcherOf(ledger: Ledger): LedgerWatcher | undefined {
  let watcher = watchers.get(ledger);
  if (watcher === undefined && next !== undefined) {
    watcher = next;
    next = undefined;
    watchers.set(ledger, watcher);
  }
  return watcher;
}

function install(): void {
  installed = true;
  const { wrote, zeroed, endEpoch, unreadable, uncertain } = Ledger.prototype;
  Ledger.prototype.wrote = function (this: Ledger, offset, data) {
    const result = wrote.call(this, offset, data);
    watcherOf(this)?.operation(this.sequence, offset, data.length, data);
    return result;
  };
  Ledger.prototype.zeroed = function (this: Ledger, offset, length, by) {
    const result = zeroed.call(this, offset, length, by);
    watcherOf(this)?.operation(this.sequence, offset, length, undefined);
    return result;
  };
  Ledger.prototype.endEpoch = function (this: Ledger) {
    endEpoch.call(this);
    watcherOf(this)?.barrier();
  };
  Ledger.prototype.unreadable = function (this: Ledger, offset, length) {
    unreadable.call(this, offset, length);
    watcherOf(this)?.unknown(offset, length);
  };
  Ledger.prototype.uncertain = function (this: Ledger, offset, length) {
    uncertain.call(this, offset, length);
    watcherOf(this)?.unknown(offset, length);
  };
}
