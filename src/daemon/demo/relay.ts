/**
 * A TCP relay between primary and mirror: the cable of the demonstration, which can be cut, and which is watched for
 * plaintext.
 */
import type { Address, ByteStream, Listener, Network } from '../../io/network.ts';

const CONNECT_TIMEOUT_MS = 5_000;

export class Relay {
  readonly #network: Network;
  readonly #target: Address;
  /** Bytes that must never be seen in clear. */
  readonly #marker: Buffer;
  readonly #streams = new Set<ByteStream>();
  #listener: Listener | undefined;
  #isCut = false;
  #carriedSize = 0;
  #sawMarker = false;

  constructor(network: Network, target: Address, marker: Buffer) {
    this.#network = network;
    this.#target = target;
    this.#marker = marker;
  }

  /** Starts on a free port of this machine; its address. */
  async listen(): Promise<Address> {
    const any: Address = { kind: 'tcp', host: '127.0.0.1', port: 0 };
    this.#listener = await this.#network.listen(any, (stream) => this.#accept(stream));
    return this.#listener.address;
  }

  /** Bytes carried so far, both ways, as they were on the wire. */
  get carriedSize(): number {
    return this.#carriedSize;
  }

  /** True when the marker passed in clear. Looked for within chunks, of which many would hold it. */
  get sawMarker(): boolean {
    return this.#sawMarker;
  }

  /** Ends every connection, and every new one, until `mend`. */
  cut(): void {
    this.#isCut = true;
    for (const stream of this.#streams) stream.destroy();
  }

  mend(): void {
    this.#isCut = false;
  }

  async close(): Promise<void> {
    this.cut();
    await this.#listener?.close();
  }

  #accept(near: ByteStream): void {
    let far: ByteStream | undefined;
    this.#join(near, () => far);
    if (this.#isCut) {
      near.destroy();
      return;
    }
    near.pause();
    this.#network.connect(this.#target, CONNECT_TIMEOUT_MS).then(
      (stream) => {
        far = stream;
        this.#join(stream, () => near);
        if (this.#isCut || !this.#streams.has(near)) stream.destroy();
        else near.resume();
      },
      () => near.destroy(),
    );
  }

  /** What arrives from one side goes to the other; when one side is gone, so is the other. */
  #join(from: ByteStream, to: () => ByteStream | undefined): void {
    this.#streams.add(from);
    from.receive({
      data: (chunk) => {
        this.#carriedSize += chunk.length;
        if (chunk.includes(this.#marker)) this.#sawMarker = true;
        if (to()?.write([chunk]) === false) from.pause();
      },
      drain: () => to()?.resume(),
      end: () => to()?.end(),
      close: () => {
        this.#streams.delete(from);
        to()?.destroy();
      },
    });
  }
}
