/** The client's side of the handshake: from the greeting to the transmission, with the best form of replies there is. */
import {
  ClientFlag,
  encodeClientFlags,
  encodeOptionExtendedHeaders,
  encodeOptionGo,
  encodeOptionSetMetaContext,
  encodeOptionStructuredReply,
  type Greeting,
  HandshakeClientDecoder,
  HandshakeFlag,
  type HandshakeServerMessage,
  Info,
  OptionReply,
  type OptionReplyMessage,
  ProtocolError,
  type ReplyMode,
} from 'nbd-protocol';
import { Failure } from '../base/failure.ts';
import type { ByteStream } from '../io/network.ts';

export interface ClientHandshakeOptions {
  /** Empty: the default export. */
  readonly exportName: string;
  /** The best form of replies to ask for; the server may know less. Default: `structured`. */
  readonly mode?: ReplyMode | undefined;
  /** Metadata contexts to select; the server may not have them. */
  readonly contexts?: readonly string[] | undefined;
}

/** What the server granted. */
export interface Agreed {
  readonly mode: ReplyMode;
  /** Of the export, in bytes. */
  readonly size: number;
  /** Of TransmissionFlag. */
  readonly flags: number;
  /** Id to name. */
  readonly contexts: ReadonlyMap<number, string>;
  /** Most bytes in one READ or WRITE. */
  readonly payloadMax: number;
  /** Bytes of replies that came behind the last option reply. */
  readonly rest: Uint8Array;
}

/** As the specification says where the server names none. */
const PAYLOAD_MAX = 32 * 1024 * 1024;

/** One handshake; feed it with `receive`, `ended` and take the outcome from `run`. */
export class ClientHandshake {
  readonly #stream: ByteStream;
  readonly #decoder = new HandshakeClientDecoder();
  #wake: (() => void) | undefined;
  #failure: Error | undefined;

  constructor(stream: ByteStream) {
    this.#stream = stream;
  }

  receive(chunk: Uint8Array): void {
    this.#decoder.push(chunk);
    this.#wake?.();
  }

  failed(error: Error): void {
    this.#failure ??= error;
    this.#wake?.();
  }

  /** Failures: `peer-foreign` (no NBD server, or it refused what is needed), and the one given to `failed`. */
  async run(options: ClientHandshakeOptions): Promise<Agreed> {
    const greeting = await this.#greeting();
    if ((greeting.flags & HandshakeFlag.FIXED_NEWSTYLE) === 0) {
      throw new Failure('peer-foreign', 'the server does not speak fixed newstyle');
    }
    this.#stream.write([encodeClientFlags(ClientFlag.FIXED_NEWSTYLE | (greeting.flags & ClientFlag.NO_ZEROES))]);
    const mode = await this.#agreeOnMode(options.mode ?? 'structured');
    const contexts = mode === 'simple' ? new Map<number, string>() : await this.#selectContexts(options);
    const replies = await this.#ask(encodeOptionGo(options.exportName, [Info.BLOCK_SIZE]));
    const refusal = replies.find((reply) => reply.kind === 'option-error');
    if (refusal !== undefined) throw refusalOf(refusal);
    const info = replies.find((reply) => reply.kind === 'info-export');
    if (info === undefined) throw new Failure('peer-foreign', 'the server did not say how large the export is');
    const sizes = replies.find((reply) => reply.kind === 'info-block-size');
    return {
      mode,
      size: info.size,
      flags: info.flags,
      contexts,
      payloadMax: Math.min(PAYLOAD_MAX, sizes?.maximum ?? PAYLOAD_MAX),
      rest: this.#decoder.rest(),
    };
  }

  async #greeting(): Promise<Greeting> {
    const message = await this.#next();
    if (message.kind !== 'greeting') throw new Failure('peer-foreign', 'the server did not begin with a greeting');
    return message;
  }

  async #agreeOnMode(wanted: ReplyMode): Promise<ReplyMode> {
    if (wanted === 'extended' && (await this.#isGranted(encodeOptionExtendedHeaders()))) return 'extended';
    if (wanted !== 'simple' && (await this.#isGranted(encodeOptionStructuredReply()))) return 'structured';
    return 'simple';
  }

  async #selectContexts(options: ClientHandshakeOptions): Promise<Map<number, string>> {
    const selected = new Map<number, string>();
    const wanted = options.contexts ?? [];
    if (wanted.length === 0) return selected;
    for (const reply of await this.#ask(encodeOptionSetMetaContext(options.exportName, wanted))) {
      if (reply.kind === 'meta-context') selected.set(reply.contextId, reply.name);
    }
    return selected;
  }

  async #isGranted(option: Uint8Array): Promise<boolean> {
    return (await this.#ask(option)).at(-1)?.kind === 'ack';
  }

  /** Sends an option; its replies up to the final one. */
  async #ask(option: Uint8Array): Promise<OptionReplyMessage[]> {
    this.#stream.write([option]);
    const replies: OptionReplyMessage[] = [];
    for (;;) {
      const message = await this.#next();
      if (message.kind === 'greeting' || message.kind === 'export-name-reply') {
        throw new Failure('peer-foreign', 'the server answered out of turn');
      }
      replies.push(message);
      if (message.kind === 'ack' || message.kind === 'option-error') return replies;
    }
  }

  async #next(): Promise<HandshakeServerMessage> {
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure;
      const message = this.#decode();
      if (message !== undefined) return message;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  #decode(): HandshakeServerMessage | undefined {
    try {
      return this.#decoder.next();
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      throw new Failure('peer-foreign', `this is not an NBD server: ${error.message}`, { cause: error });
    }
  }
}

function refusalOf(refusal: OptionReplyMessage & { kind: 'option-error' }): Failure {
  const { type, message } = refusal;
  if (type === OptionReply.ERR_UNKNOWN) return new Failure('peer-foreign', message || 'the server has no such export');
  if (type === OptionReply.ERR_SHUTDOWN) return new Failure('shutting-down', message || 'the server is stopping');
  if (type === OptionReply.ERR_TLS_REQD) return new Failure('tls-config', message || 'the server requires TLS');
  return new Failure('peer-foreign', message || `the server refused with 0x${type.toString(16)}`);
}
