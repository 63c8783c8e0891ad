/**
 * The server's side of the handshake: options in, replies out, until one of them leads on.
 *
 * What is kept: what has been negotiated so far (the form of replies, the metadata contexts and for which export), and
 * how many options came. Invariants:
 * - Nothing that was negotiated in plain text survives STARTTLS.
 * - With `require`, no option but STARTTLS and ABORT does anything before TLS, and no fact about exports leaves.
 * - A client that did not say FIXED_NEWSTYLE can do nothing but EXPORT_NAME, and never gets TLS.
 *
 * @see NBD spec, "Newstyle negotiation", "TLS support" (FORCEDTLS is `require`, SELECTIVETLS is `on`, NOTLS is `off`)
 */
import {
  ClientFlag,
  encodeExportNameReply,
  encodeOptionReplyAck,
  encodeOptionReplyError,
  encodeOptionReplyInfoBlockSize,
  encodeOptionReplyInfoDescription,
  encodeOptionReplyInfoExport,
  encodeOptionReplyInfoName,
  encodeOptionReplyMetaContext,
  encodeOptionReplyServer,
  type HandshakeClientMessage,
  HandshakeServerDecoder,
  Info,
  type KnownOption,
  Option,
  OptionReply,
  type ReplyMode,
} from 'nbd-protocol';
import { type Export, type ExportTable, transmissionFlags } from './exports.ts';
import { BLOCK_SIZES } from './limits.ts';
import { listContexts, type SelectedContext, selectContexts } from './meta-contexts.ts';

/** `require`: nothing without TLS; `on`: TLS for who wants it; `off`: none. */
export type TlsPolicy = 'require' | 'on' | 'off';

export interface HandshakeOptions {
  readonly exports: ExportTable;
  readonly tls: TlsPolicy;
  readonly optionsMax: number;
  /** True once the server is stopping. */
  readonly isStopping: () => boolean;
  /** Sends a reply. */
  readonly send: (bytes: Uint8Array) => void;
}

/** What a handshake has led to. */
export type HandshakeOutcome =
  | {
      readonly kind: 'transmission';
      readonly export: Export;
      readonly mode: ReplyMode;
      readonly contexts: readonly SelectedContext[];
      /** Bytes of requests that came behind the last option. */
      readonly rest: Uint8Array;
    }
  /** Upgrade the stream, call `tlsStarted`, go on. */
  | { readonly kind: 'start-tls' }
  /** The client said goodbye. */
  | { readonly kind: 'aborted' }
  /** The client asked for what cannot be answered with an error: hang up. */
  | { readonly kind: 'refused'; readonly reason: string };

interface Negotiated {
  mode: ReplyMode;
  contexts: { exportName: string; selected: SelectedContext[] } | undefined;
}

export class Handshake {
  readonly #options: HandshakeOptions;
  readonly #decoder = new HandshakeServerDecoder();
  #fixedNewstyle = false;
  #noZeroes = false;
  #encrypted = false;
  #optionCount = 0;
  #negotiated: Negotiated = { mode: 'simple', contexts: undefined };

  constructor(options: HandshakeOptions) {
    this.#options = options;
  }

  /**
   * Takes bytes; returns what they led to, or undefined when more are needed.
   *
   * @throws ProtocolError when the client breaks the protocol or speaks another
   */
  receive(chunk: Uint8Array): HandshakeOutcome | undefined {
    this.#decoder.push(chunk);
    for (let message = this.#decoder.next(); message !== undefined; message = this.#decoder.next()) {
      const outcome = this.#take(message);
      if (outcome !== undefined) return outcome;
    }
    return undefined;
  }

  /** The stream is encrypted from here on: begins anew. */
  tlsStarted(): void {
    this.#encrypted = true;
    this.#negotiated = { mode: 'simple', contexts: undefined };
  }

  #take(message: HandshakeClientMessage): HandshakeOutcome | undefined {
    if (message.kind === 'client-flags') {
      this.#fixedNewstyle = (message.flags & ClientFlag.FIXED_NEWSTYLE) !== 0;
      this.#noZeroes = (message.flags & ClientFlag.NO_ZEROES) !== 0;
      return undefined;
    }
    this.#optionCount += 1;
    if (this.#optionCount > this.#options.optionsMax) return refused(`more than ${this.#options.optionsMax} options`);
    const { option } = message;
    if (!this.#fixedNewstyle && option !== Option.EXPORT_NAME) {
      return refused(`option ${option} from a client that does not speak fixed newstyle`);
    }
    if (option === Option.ABORT) {
      this.#acknowledge(option);
      return { kind: 'aborted' };
    }
    if (this.#options.isStopping()) {
      if (option === Option.EXPORT_NAME) return refused('the server is stopping');
      return this.#fail(option, OptionReply.ERR_SHUTDOWN, 'the server is stopping');
    }
    if (this.#options.tls === 'require' && !this.#encrypted && option !== Option.STARTTLS) {
      if (option === Option.EXPORT_NAME) return refused('this server requires TLS, and the client asked without');
      return this.#fail(option, OptionReply.ERR_TLS_REQD, 'this server requires TLS');
    }
    switch (message.kind) {
      case 'option':
        return this.#answer(message);
      case 'unknown-option':
        return this.#fail(option, OptionReply.ERR_UNSUP, 'this option is not known here');
      case 'invalid-option':
        if (option === Option.EXPORT_NAME) return refused(message.reason);
        return this.#fail(option, OptionReply.ERR_INVALID, message.reason);
      case 'oversized-option':
        if (option === Option.EXPORT_NAME) return refused('the export name is too long');
        return this.#fail(option, OptionReply.ERR_TOO_BIG, 'this option has too much data');
    }
  }

  #answer(message: KnownOption): HandshakeOutcome | undefined {
    const { option } = message;
    switch (option) {
      case Option.EXPORT_NAME:
        return this.#exportName(message.name);
      case Option.ABORT:
        return { kind: 'aborted' };
      case Option.LIST:
        for (const entry of this.#options.exports.all) {
          this.#options.send(encodeOptionReplyServer(entry.name, entry.description));
        }
        return this.#acknowledge(option);
      case Option.STARTTLS:
        return this.#startTls();
      case Option.INFO:
      case Option.GO:
        return this.#describe(option, message.name, message.informationRequests);
      case Option.STRUCTURED_REPLY:
        if (this.#negotiated.mode === 'extended') {
          return this.#fail(option, OptionReply.ERR_EXT_HEADER_REQD, 'extended headers are negotiated already');
        }
        this.#negotiated.mode = 'structured';
        return this.#acknowledge(option);
      case Option.EXTENDED_HEADERS:
        this.#negotiated.mode = 'extended';
        return this.#acknowledge(option);
      case Option.LIST_META_CONTEXT:
        return this.#listContexts(message.exportName, message.queries);
      case Option.SET_META_CONTEXT:
        return this.#setContexts(message.exportName, message.queries);
    }
  }

  #exportName(name: string): HandshakeOutcome {
    if (this.#negotiated.mode === 'extended') return refused('EXPORT_NAME after EXTENDED_HEADERS');
    const found = this.#options.exports.find(name);
    if (found === undefined) return refused(`no export is named ‘${name}’`);
    const contexts = this.#contextsFor(name);
    const flags = transmissionFlags(found.volume, this.#negotiated.mode, contexts.length > 0);
    this.#options.send(encodeExportNameReply(found.volume.size, flags, this.#noZeroes));
    return this.#enter(found, contexts);
  }

  #startTls(): HandshakeOutcome | undefined {
    if (this.#options.tls === 'off') {
      return this.#fail(Option.STARTTLS, OptionReply.ERR_POLICY, 'TLS is not configured here');
    }
    if (this.#encrypted) return this.#fail(Option.STARTTLS, OptionReply.ERR_INVALID, 'TLS has been started already');
    // Whatever came behind STARTTLS came before the encryption: from a man in the middle, or from a broken client.
    if (this.#decoder.rest().length > 0) return refused('plain bytes behind STARTTLS');
    this.#acknowledge(Option.STARTTLS);
    return { kind: 'start-tls' };
  }

  #describe(
    option: typeof Option.INFO | typeof Option.GO,
    name: string,
    requests: readonly number[],
  ): HandshakeOutcome | undefined {
    const found = this.#options.exports.find(name);
    if (found === undefined) return this.#unknownExport(option, name);
    const { send } = this.#options;
    const contexts = this.#contextsFor(name);
    const flags = transmissionFlags(found.volume, this.#negotiated.mode, contexts.length > 0);
    send(encodeOptionReplyInfoExport(option, found.volume.size, flags));
    if (requests.includes(Info.NAME)) send(encodeOptionReplyInfoName(option, found.name));
    if (requests.includes(Info.DESCRIPTION)) send(encodeOptionReplyInfoDescription(option, found.description));
    if (requests.includes(Info.BLOCK_SIZE)) send(encodeOptionReplyInfoBlockSize(option, BLOCK_SIZES));
    this.#acknowledge(option);
    return option === Option.GO ? this.#enter(found, contexts) : undefined;
  }

  #listContexts(exportName: string, queries: readonly string[]): undefined {
    const option = Option.LIST_META_CONTEXT;
    if (this.#negotiated.mode === 'simple') return this.#needsStructured(option);
    const found = this.#options.exports.find(exportName);
    if (found === undefined) return this.#unknownExport(option, exportName);
    for (const name of listContexts(found.volume.contexts, queries)) {
      this.#options.send(encodeOptionReplyMetaContext(option, 0, name));
    }
    return this.#acknowledge(option);
  }

  #setContexts(exportName: string, queries: readonly string[]): undefined {
    const option = Option.SET_META_CONTEXT;
    // "replaces all previously-set metadata contexts (including when this command fails)"
    this.#negotiated.contexts = undefined;
    if (this.#negotiated.mode === 'simple') return this.#needsStructured(option);
    const found = this.#options.exports.find(exportName);
    if (found === undefined) return this.#unknownExport(option, exportName);
    const selected = selectContexts(found.volume.contexts, queries);
    this.#negotiated.contexts = { exportName, selected };
    for (const { id, name } of selected) this.#options.send(encodeOptionReplyMetaContext(option, id, name));
    return this.#acknowledge(option);
  }

  /** Contexts count only for the name for which they were set. */
  #contextsFor(exportName: string): readonly SelectedContext[] {
    const { contexts } = this.#negotiated;
    return contexts?.exportName === exportName ? contexts.selected : [];
  }

  #enter(found: Export, contexts: readonly SelectedContext[]): HandshakeOutcome {
    return {
      kind: 'transmission',
      export: found,
      mode: this.#negotiated.mode,
      contexts,
      rest: this.#decoder.rest(),
    };
  }

  #needsStructured(option: number): undefined {
    return this.#fail(option, OptionReply.ERR_INVALID, 'structured replies must be negotiated first');
  }

  #unknownExport(option: number, name: string): undefined {
    return this.#fail(option, OptionReply.ERR_UNKNOWN, `no export is named ‘${name}’`);
  }

  #acknowledge(option: number): undefined {
    this.#options.send(encodeOptionReplyAck(option));
  }

  #fail(option: number, type: number, reason: string): undefined {
    this.#options.send(encodeOptionReplyError(option, type, reason));
  }
}

function refused(reason: string): HandshakeOutcome {
  return { kind: 'refused', reason };
}
