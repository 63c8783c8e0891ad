import type { Allocate } from './byte-queue.ts';
import { getBigU64, getU16, getU32, putU32, requireInteger, U32_MAX } from './bytes.ts';
import { Magic, Size } from './constants.ts';
import { Decoder } from './decoder.ts';
import { ProtocolError } from './errors.ts';
import { decodeOptionReply, getExportSize, type OptionReplyMessage, optionReplyDataMax } from './option-replies.ts';

/** The server's first message. */
export interface Greeting {
  readonly kind: 'greeting';
  /** Of {@link HandshakeFlag}; ignore unknown ones. */
  readonly flags: number;
}

/** The server's answer to EXPORT_NAME: the transmission has begun. */
export interface ExportNameReply {
  readonly kind: 'export-name-reply';
  /** Of the export, in bytes. */
  readonly size: number;
  /** Of {@link TransmissionFlag}. */
  readonly flags: number;
}

export type HandshakeServerMessage = Greeting | OptionReplyMessage | ExportNameReply;

export interface HandshakeClientOptions {
  readonly allocate?: Allocate;
}

/**
 * What a client receives before the transmission: the greeting, then replies to the options that it sent.
 *
 * After the ACK to GO, or the reply to EXPORT_NAME, hand `rest()` to a {@link ReplyDecoder}. After the ACK to STARTTLS
 * `rest()` must be empty; then the same decoder goes on inside TLS.
 *
 * State: what comes next; the size of an option reply while it is under way, which stays in the queue so that `rest`
 * is exact.
 *
 * @see NBD spec, "Newstyle negotiation", "Fixed newstyle negotiation"
 */
export class HandshakeClientDecoder extends Decoder<HandshakeServerMessage> {
  #expects: 'greeting' | 'option-reply' | 'export-name-reply' | 'padded-export-name-reply' | 'nothing' = 'greeting';
  #replySize: number | undefined;

  constructor(options: HandshakeClientOptions = {}) {
    super(options.allocate);
  }

  /**
   * To be called on sending EXPORT_NAME, whose reply cannot be told from others by its bytes.
   *
   * @param noZeroes whether both ends set NO_ZEROES
   * @throws RangeError before the greeting has come, or if called twice
   */
  expectExportNameReply(noZeroes: boolean): void {
    if (this.#expects !== 'option-reply') throw new RangeError('EXPORT_NAME is sent once, after the greeting');
    this.#expects = noZeroes ? 'export-name-reply' : 'padded-export-name-reply';
  }

  protected override decode(): HandshakeServerMessage | undefined {
    switch (this.#expects) {
      case 'greeting':
        return this.#decodeGreeting();
      case 'option-reply':
        return this.#decodeOptionReply();
      case 'export-name-reply':
        return this.#decodeExportNameReply(Size.EXPORT_NAME_REPLY);
      case 'padded-export-name-reply':
        return this.#decodeExportNameReply(Size.EXPORT_NAME_REPLY_PADDED);
      case 'nothing':
        return undefined;
    }
  }

  #decodeGreeting(): Greeting | undefined {
    const input = this.input;
    if (input.peek(8) && getBigU64(input.head, input.at) !== Magic.NBDMAGIC) {
      throw new ProtocolError('bad-magic', 'the greeting must begin with NBDMAGIC');
    }
    if (input.peek(16)) {
      const magic = getBigU64(input.head, input.at + 8);
      if (magic === Magic.OLDSTYLE) throw new ProtocolError('unexpected', 'the server speaks oldstyle only');
      if (magic !== Magic.IHAVEOPT) throw new ProtocolError('bad-magic', 'NBDMAGIC must be followed by IHAVEOPT');
    }
    if (!input.peek(Size.GREETING)) return undefined;
    const flags = getU16(input.head, input.at + 16);
    input.skip(Size.GREETING);
    this.#expects = 'option-reply';
    return { kind: 'greeting', flags };
  }

  #decodeOptionReply(): OptionReplyMessage | undefined {
    this.#replySize ??= this.#measureReply();
    if (this.#replySize === undefined) return undefined;
    const bytes = this.input.take(this.#replySize);
    if (bytes === undefined) return undefined;
    this.#replySize = undefined;
    return decodeOptionReply(getU32(bytes, 8), getU32(bytes, 12), bytes.subarray(Size.OPTION_REPLY));
  }

  /** Checks the header of a reply as soon as it is there; the size of header and data. */
  #measureReply(): number | undefined {
    const input = this.input;
    if (input.peek(8) && getBigU64(input.head, input.at) !== Magic.OPTION_REPLY) {
      throw new ProtocolError('bad-magic', 'not an option reply');
    }
    if (!input.peek(Size.OPTION_REPLY)) return undefined;
    const type = getU32(input.head, input.at + 12);
    const length = getU32(input.head, input.at + 16);
    const max = optionReplyDataMax(type);
    if (length > max) {
      throw new ProtocolError(max === 0 ? 'bad-length' : 'too-large', `an option reply with ${length} bytes of data`);
    }
    return Size.OPTION_REPLY + length;
  }

  #decodeExportNameReply(size: number): ExportNameReply | undefined {
    const input = this.input;
    const exportSize = input.peek(8) ? getExportSize(input.head, input.at) : 0;
    if (!input.peek(size)) return undefined;
    const flags = getU16(input.head, input.at + 8);
    input.skip(size);
    this.#expects = 'nothing';
    return { kind: 'export-name-reply', size: exportSize, flags };
  }
}

/**
 * The client's answer to the greeting.
 *
 * @param flags of {@link ClientFlag}; none that the greeting did not offer
 * @see NBD spec, "Client flags"
 */
export function encodeClientFlags(flags: number): Uint8Array {
  requireInteger(flags, U32_MAX, 'client flags');
  const bytes = new Uint8Array(Size.CLIENT_FLAGS);
  putU32(bytes, 0, flags);
  return bytes;
}
