import type { Allocate } from './byte-queue.ts';
import { EMPTY, getBigU64, getU16, getU32, getU64 } from './bytes.ts';
import { Command, CommandFlag, ErrorCode, Magic, Size } from './constants.ts';
import { Decoder } from './decoder.ts';
import { ProtocolError } from './errors.ts';
import { LIMITS } from './limits.ts';
import { decodeBlockStatusRequest, faultOf, type Request } from './request.ts';

export interface RequestDecoderOptions {
  /** Whether extended headers were negotiated. */
  readonly extended: boolean;
  /** Most bytes in the payload of a request, as advertised in INFO_BLOCK_SIZE. */
  readonly payloadMax?: number;
  /** Makes the buffer for a payload that did not arrive in one chunk. */
  readonly allocate?: Allocate;
}

type Pending = { -readonly [Field in keyof Request]: Request[Field] };

/**
 * What a server receives during the transmission.
 *
 * A request that cannot be carried out, but whose end can be found, comes out with `fault` set and its payload skipped:
 * "the server SHOULD NOT disconnect". `next` throws on a wrong magic, and `too-large` at the header of
 * - a WRITE above both `payloadMax` and `LIMITS.payloadSkip`;
 * - with extended headers, any payload above `payloadMax`.
 *
 * After DISC nothing more is decoded: the client must not send anything.
 *
 * State: the request whose payload is under way, and how many of its bytes are still to be skipped, or 0 if the payload
 * is to be kept.
 *
 * @see NBD spec, "Request message"
 */
export class RequestDecoder extends Decoder<Request> {
  readonly #extended: boolean;
  readonly #magic: number;
  readonly #headerSize: number;
  readonly #payloadMax: number;
  readonly #skipMax: number;
  #pending: Pending | undefined;
  #payloadSize = 0;
  #skipSize = 0;
  #ended = false;

  constructor(options: RequestDecoderOptions) {
    super(options.allocate);
    this.#extended = options.extended;
    this.#magic = options.extended ? Magic.EXTENDED_REQUEST : Magic.REQUEST;
    this.#headerSize = options.extended ? Size.EXTENDED_REQUEST : Size.REQUEST;
    this.#payloadMax = options.payloadMax ?? LIMITS.payload;
    // "A server SHOULD initiate hard disconnect if a client sets PAYLOAD_LEN and uses a length larger than [...]"
    this.#skipMax = options.extended ? this.#payloadMax : Math.max(this.#payloadMax, LIMITS.payloadSkip);
  }

  /** Bytes of the header of a request. */
  get headerSize(): number {
    return this.#headerSize;
  }

  protected override decode(): Request | undefined {
    const input = this.input;
    if (this.#pending !== undefined) return this.#finish(this.#pending);
    if (this.#ended) input.clear();
    if (!input.peek(this.#headerSize)) {
      if (input.peek(4)) this.#checkMagic(getU32(input.head, input.at));
      return undefined;
    }
    const bytes = input.head;
    const at = input.at;
    this.#checkMagic(getU32(bytes, at));
    const request = this.#decodeHeader(bytes, at);
    input.skip(this.#headerSize);
    if (this.#payloadSize === 0) return request;
    this.#pending = request;
    return this.#finish(request);
  }

  #checkMagic(magic: number): void {
    if (magic === this.#magic) return;
    throw new ProtocolError('bad-magic', `a request begins with 0x${magic.toString(16)}`);
  }

  #decodeHeader(bytes: Uint8Array, at: number): Pending {
    const flags = getU16(bytes, at + 4);
    const command = getU16(bytes, at + 6);
    const offset = getU64(bytes, at + 16);
    const length = this.#extended ? getU64(bytes, at + 24) : getU32(bytes, at + 24);
    if (command === Command.DISC) this.#ended = true;
    const hasPayload = this.#extended ? (flags & CommandFlag.PAYLOAD_LEN) !== 0 : command === Command.WRITE;
    this.#payloadSize = hasPayload && !this.#ended ? length : 0;
    if (this.#payloadSize > this.#skipMax) {
      throw new ProtocolError('too-large', `a payload of ${length} bytes, more than ${this.#skipMax}`);
    }
    // Of any command but WRITE, the length of a payload is not a length within the export.
    const effectLength = hasPayload && command !== Command.WRITE ? 0 : length;
    let fault = faultOf(command, flags, offset, effectLength, this.#extended ? CommandFlag.PAYLOAD_LEN : 0);
    if (this.#payloadSize > this.#payloadMax) fault ??= ErrorCode.EINVAL;
    if (this.#extended && !this.#ended && !isPayloadValid(command, hasPayload, length)) fault ??= ErrorCode.EINVAL;
    this.#skipSize = fault === undefined ? 0 : this.#payloadSize;
    return {
      command,
      flags,
      cookieHigh: getU32(bytes, at + 8),
      cookieLow: getU32(bytes, at + 12),
      offset,
      length,
      payload: command === Command.WRITE && fault === undefined ? EMPTY : undefined,
      contextIds: undefined,
      fault,
      wideOffset: offset > Number.MAX_SAFE_INTEGER ? getBigU64(bytes, at + 16) : undefined,
    };
  }

  /** Takes or skips the payload. */
  #finish(request: Pending): Request | undefined {
    if (request.fault !== undefined) {
      this.#skipSize -= this.input.discard(this.#skipSize);
      if (this.#skipSize > 0) return undefined;
    } else {
      const payload = this.input.take(this.#payloadSize);
      if (payload === undefined) return undefined;
      if (request.command === Command.BLOCK_STATUS) applyBlockStatus(request, payload);
      else request.payload = payload;
    }
    this.#pending = undefined;
    return request;
  }
}

/** Whether a payload, or its absence, is a form that this command has with extended headers. */
function isPayloadValid(command: number, hasPayload: boolean, length: number): boolean {
  if (command === Command.WRITE) return hasPayload;
  if (!hasPayload) return true;
  if (command !== Command.BLOCK_STATUS) return false;
  const idsSize = length - Size.BLOCK_STATUS_REQUEST;
  return idsSize > 0 && idsSize % Size.CONTEXT_ID === 0 && idsSize <= Size.CONTEXT_ID * LIMITS.contextIds;
}

function applyBlockStatus(request: Pending, payload: Uint8Array): void {
  const asked = decodeBlockStatusRequest(payload);
  if (asked === undefined || request.offset + asked.length > Number.MAX_SAFE_INTEGER) {
    request.fault = ErrorCode.EINVAL;
  }
  if (asked === undefined) return;
  request.length = asked.length;
  request.contextIds = asked.contextIds;
}
