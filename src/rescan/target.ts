/**
 * The target half of a rescan: answers the source's questions for digests of the mirror's image, seen through a staged
 * run where one is open.
 *
 * A question is answered only after its pass has begun in the stream, so that everything sent before the pass is in
 * what is read. Within a pass digests are read beside the stream: see source.ts for why that is safe.
 */
import { Failure } from '../base/failure.ts';
import { DIGEST_KEY_SIZE } from '../io/digest.ts';
import type { World } from '../io/world.ts';
import { digestUnitOf, encodeDigestReply } from '../link/digests.ts';
import type { Frame } from '../link/frame.ts';
import { scanView, type View } from './view.ts';

/** Questions that may be open at once; the source asks fewer. */
const OPEN_REQUESTS_MAX = 256;

export class RescanTarget {
  readonly #view: () => View;
  readonly #world: Pick<World, 'scan' | 'clock'>;
  readonly #send: (reply: Buffer) => void;
  readonly #failed: (reason: unknown) => void;
  #key: Buffer | undefined;
  /** Questions that overtook their pass. */
  #early: Frame[] = [];
  #open = 0;
  #ended = false;

  /** `view` is asked for each question: it changes when a staged run begins or ends. */
  constructor(
    view: () => View,
    world: Pick<World, 'scan' | 'clock'>,
    send: (reply: Buffer) => void,
    failed: (reason: unknown) => void,
  ) {
    this.#view = view;
    this.#world = world;
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
    digestUnitOf(frame, this.#view().size);
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
    const view = this.#view();
    const unitSize = digestUnitOf(frame, view.size);
    const request = { offset: frame.offset, length: frame.length, unitSize, key };
    this.#open += 1;
    scanView(view, this.#world.scan, this.#world.clock, request, () => this.#ended).then(
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
