/**
 * The target half of a rescan: answers the source's questions for digests of the image.
 *
 * A question is answered only after its pass has begun in the stream, so that everything sent before the pass is in
 * the image that is read. Within a pass digests are read beside the stream: see source.ts for why that is safe.
 */
import { Failure } from '../base/failure.ts';
import { DIGEST_KEY_SIZE } from '../io/digest.ts';
import type { Disk } from '../io/disk.ts';
import type { ScanPool } from '../io/scan-pool.ts';
import type { Frame } from '../link/frame.ts';
import { digestUnitOf, encodeDigestReply } from '../link/messages.ts';

/** Questions that may be open at once; the source asks fewer. */
const OPEN_REQUESTS_MAX = 256;

export class RescanTarget {
  readonly #disk: Disk;
  readonly #scan: ScanPool;
  readonly #send: (reply: Buffer) => void;
  readonly #failed: (reason: unknown) => void;
  #key: Buffer | undefined;
  /** Questions that overtook their pass. */
  #early: Frame[] = [];
  #open = 0;
  #ended = false;

  constructor(disk: Disk, scan: ScanPool, send: (reply: Buffer) => void, failed: (reason: unknown) => void) {
    this.#disk = disk;
    this.#scan = scan;
    this.#send = send;
    this.#failed = failed;
  }

  get key(): Buffer | undefined {
    return this.#key;
  }

  /** The stream reached the start of a pass. */
  passBegan(key: Buffer): void {
    if (key.length !== DIGEST_KEY_SIZE) throw new Failure('frame-invalid', 'malformed PASS frame');
    this.#key = key;
    for (const request of this.#early.splice(0)) this.#answer(request, key);
  }

  /** A PASS frame was received and stands in the stream: the questions after it belong to it. */
  passExpected(): void {
    this.#key = undefined;
  }

  /** A question. Failure: `frame-invalid`. */
  request(frame: Frame): void {
    digestUnitOf(frame, this.#disk.size);
    if (this.#open + this.#early.length >= OPEN_REQUESTS_MAX)
      throw new Failure('frame-invalid', 'too many open digest requests');
    if (this.#key === undefined) this.#early.push(frame);
    else this.#answer(frame, this.#key);
  }

  /** The session is over: nothing more is sent. */
  end(): void {
    this.#ended = true;
    this.#early = [];
  }

  #answer(frame: Frame, key: Buffer): void {
    const unitSize = digestUnitOf(frame, this.#disk.size);
    this.#open += 1;
    this.#scan.scan(this.#disk, { offset: frame.offset, length: frame.length, unitSize, key }).then(
      (result) => {
        this.#open -= 1;
        if (!this.#ended) this.#send(encodeDigestReply(frame, result));
      },
      (error: unknown) => {
        this.#open -= 1;
        if (!this.#ended) this.#failed(error);
      },
    );
  }
}
