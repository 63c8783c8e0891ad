import type { Allocate } from './byte-queue.ts';
import { getBigU64, getU32, putBigU64, putU16, putU64, requireInteger } from './bytes.ts';
import { HandshakeFlag, Magic, Size } from './constants.ts';
import { Decoder } from './decoder.ts';
import { ProtocolError } from './errors.ts';
import { LIMITS } from './limits.ts';
import { decodeOption, type KnownOption, type UnknownOption } from './options.ts';

/** The client's answer to the greeting. */
export interface ClientFlagsMessage {
  readonly kind: 'client-flags';
  /** Of {@link ClientFlag}; without FIXED_NEWSTYLE the one valid option is EXPORT_NAME. */
  readonly flags: number;
}

/** An option whose data is not what it must be: answer ERR_INVALID, or hang up if it is EXPORT_NAME. */
export interface InvalidOption {
  readonly kind: 'invalid-option';
  readonly option: number;
  /** For the error reply and the log. */
  readonly reason: string;
}

/** An option with more data, queries or text than this end takes in: answer ERR_TOO_BIG; its data was skipped. */
export interface OversizedOption {
  readonly kind: 'oversized-option';
  readonly option: number;
  /** Size of the data. */
  readonly length: number;
}

export type HandshakeClientMessage = ClientFlagsMessage | KnownOption | UnknownOption | InvalidOption | OversizedOption;

export interface HandshakeServerOptions {
  /** What the greeting offered; a client that sets another flag must be dropped. Default: both. */
  readonly flags?: number;
  /** Most bytes of option data taken in. */
  readonly optionDataMax?: number;
  /** Most bytes of option data skipped; above, `next` throws `too-large`. */
  readonly optionSkipMax?: number;
  readonly allocate?: Allocate;
}

/**
 * What a server receives before the transmission: client flags, then options until one of them enters it.
 *
 * After EXPORT_NAME or a GO that succeeds, hand `rest()` to a {@link RequestDecoder}. After STARTTLS `rest()` must be
 * empty, or a man in the middle has put plain text before the encrypted; then the same decoder goes on inside TLS.
 *
 * State: whether the client flags have come; the header of an option while its data is under way, which stays in the
 * queue so that `rest` is exact; or the count of bytes still to skip of an oversized one.
 *
 * @see NBD spec, "Newstyle negotiation", "Fixed newstyle negotiation"
 */
export class HandshakeServerDecoder extends Decoder<HandshakeClientMessage> {
  readonly #flags: number;
  readonly #optionDataMax: number;
  readonly #optionSkipMax: number;
  #flagsReceived = false;
  #oversized: OversizedOption | undefined;
  #skipSize = 0;
  #optionSize: number | undefined;

  constructor(options: HandshakeServerOptions = {}) {
    super(options.allocate);
    this.#flags = options.flags ?? HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES;
    this.#optionDataMax = options.optionDataMax ?? LIMITS.optionData;
    this.#optionSkipMax = options.optionSkipMax ?? LIMITS.optionSkip;
  }

  protected override decode(): HandshakeClientMessage | undefined {
    if (!this.#flagsReceived) return this.#decodeFlags();
    if (this.#oversized !== undefined) return this.#skipOversized(this.#oversized);
    this.#optionSize ??= this.#measureOption();
    if (this.#oversized !== undefined) return this.#skipOversized(this.#oversized);
    return this.#optionSize === undefined ? undefined : this.#decodeOption(this.#optionSize);
  }

  /**
   * ```text
   * offset  size  field
   *      0     4  client flags
   *      4        = Size.CLIENT_FLAGS
   * ```
   */
  #decodeFlags(): ClientFlagsMessage | undefined {
    const input = this.input;
    if (!input.peek(Size.CLIENT_FLAGS)) return undefined;
    const flags = getU32(input.head, input.at);
    if ((flags & ~this.#flags) !== 0) {
      throw new ProtocolError('bad-flags', `client flags 0x${flags.toString(16)} were not offered`);
    }
    input.skip(Size.CLIENT_FLAGS);
    this.#flagsReceived = true;
    return { kind: 'client-flags', flags };
  }

  /** Checks the header of an option as soon as it is there; the size of header and data. */
  #measureOption(): number | undefined {
    const input = this.input;
    if (input.peek(8)) {
      const magic = getBigU64(input.head, input.at);
      if (magic !== Magic.IHAVEOPT) throw new ProtocolError('bad-magic', 'an option must begin with IHAVEOPT');
    }
    if (!input.peek(Size.OPTION)) return undefined;
    const option = getU32(input.head, input.at + 8);
    const length = getU32(input.head, input.at + 12);
    if (length <= this.#optionDataMax) return Size.OPTION + length;
    if (length > this.#optionSkipMax) {
      throw new ProtocolError('too-large', `${length} bytes of option data, more than ${this.#optionSkipMax}`);
    }
    this.#oversized = { kind: 'oversized-option', option, length };
    this.#skipSize = Size.OPTION + length;
    return undefined;
  }

  #decodeOption(size: number): HandshakeClientMessage | undefined {
    const bytes = this.input.take(size);
    if (bytes === undefined) return undefined;
    this.#optionSize = undefined;
    const option = getU32(bytes, 8);
    const data = bytes.subarray(Size.OPTION);
    try {
      return decodeOption(option, data);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      if (error.code === 'too-large') return { kind: 'oversized-option', option, length: data.length };
      return { kind: 'invalid-option', option, reason: error.message };
    }
  }

  #skipOversized(message: OversizedOption): OversizedOption | undefined {
    this.#skipSize -= this.input.discard(this.#skipSize);
    if (this.#skipSize > 0) return undefined;
    this.#oversized = undefined;
    return message;
  }
}

/**
 * The server's first bytes.
 *
 * ```text
 * offset  size  field
 *      0     8  magic, NBDMAGIC
 *      8     8  magic, IHAVEOPT
 *     16     2  handshake flags
 *     18        = Size.GREETING
 * ```
 *
 * @param flags of {@link HandshakeFlag}; FIXED_NEWSTYLE must be among them for any option but EXPORT_NAME
 * @see NBD spec, "Newstyle negotiation"
 */
export function encodeServerGreeting(flags: number): Uint8Array {
  requireInteger(flags, 0xffff, 'handshake flags');
  const bytes = new Uint8Array(Size.GREETING);
  putBigU64(bytes, 0, Magic.NBDMAGIC);
  putBigU64(bytes, 8, Magic.IHAVEOPT);
  putU16(bytes, 16, flags);
  return bytes;
}

/**
 * The answer to EXPORT_NAME, after which the transmission begins.
 *
 * ```text
 * offset  size  field
 *      0     8  size of the export
 *      8     2  transmission flags
 *     10        = Size.EXPORT_NAME_REPLY
 *     10   124  zeroes, unless both ends set NO_ZEROES
 *    134        = Size.EXPORT_NAME_REPLY_PADDED
 * ```
 *
 * @see NBD spec, "Newstyle negotiation"
 */
export function encodeExportNameReply(size: number, flags: number, noZeroes: boolean): Uint8Array {
  requireInteger(size, Number.MAX_SAFE_INTEGER, 'size of the export');
  requireInteger(flags, 0xffff, 'transmission flags');
  const bytes = new Uint8Array(noZeroes ? Size.EXPORT_NAME_REPLY : Size.EXPORT_NAME_REPLY_PADDED);
  putU64(bytes, 0, size);
  putU16(bytes, 8, flags);
  return bytes;
}
