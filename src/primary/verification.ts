/** Verify on request, and beside it the periodic one, where there is one: one of them at a time, the request first. */
import { Failure } from '../base/failure.ts';
import type { PeriodicVerify } from './periodic-verify.ts';
import type { PrimarySession } from './session.ts';
import type { RescanProgress, VerificationStatus, VerifyReport } from './status.ts';

export class Verification {
  readonly #link: { inStep(): PrimarySession };
  readonly #periodic: PeriodicVerify | undefined;
  #asked = false;

  constructor(link: { inStep(): PrimarySession }, periodic: PeriodicVerify | undefined) {
    this.#link = link;
    this.#periodic = periodic;
  }

  start(): void {
    this.#periodic?.start();
  }

  /** Compares everything now. Failures: `not-ready` while another one is asked for or the mirror is not in step, `connection-lost`. */
  async verify(onProgress: (progress: RescanProgress) => void): Promise<VerifyReport> {
    if (this.#asked) throw new Failure('not-ready', 'a verification is already running');
    this.#link.inStep();
    this.#asked = true;
    try {
      await this.#periodic?.giveWay();
      return await this.#link.inStep().verify({}, (verify) => verify.run(onProgress));
    } finally {
      this.#asked = false;
      this.#periodic?.goOn();
    }
  }

  /** Empty without a periodic one. */
  status(): { verification?: VerificationStatus } {
    return this.#periodic === undefined ? {} : { verification: this.#periodic.status() };
  }

  /** The periodic one ends. Resolves when it has: at the latest when the session with the mirror ends. */
  async stop(): Promise<void> {
    await this.#periodic?.stop();
  }

  /** After `stop`: what is known is written down. */
  async close(): Promise<void> {
    await this.#periodic?.close();
  }
}
