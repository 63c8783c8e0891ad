/**
 * One client for each of many exports, that asks for little: a write of 4 KiB at a random place, at a steady interval. Each
 * is due at a moment that only the interval decides, and how late it was answered is counted from there, so that a stall
 * shows in full.
 */
import { randomFillSync } from 'node:crypto';
import { nodeNetwork } from '../../dist/io/node-network.js';
import { connectNbd, type NbdClient } from '../../dist/nbd/client.js';
import { Chance } from './chance.ts';

const WRITE_SIZE = 4096;
const TICK_MS = 2;
/** Of one client: what is due beyond that waits, and counts as late. */
const IN_FLIGHT_MAX = 16;

export interface ClientPlace {
  /** Path of the unix socket. */
  readonly socket: string;
  readonly exportName: string;
}

interface Answered {
  readonly dueMs: number;
  readonly lateMs: number;
}

interface LightClient {
  readonly client: NbdClient;
  readonly chance: Chance;
  dueMs: number;
}

export class LightClients {
  readonly #clients: readonly LightClient[];
  readonly #intervalMs: number;
  readonly #answered: Answered[] = [];
  readonly #timer: NodeJS.Timeout;
  #failure: unknown;

  private constructor(clients: readonly LightClient[], intervalMs: number) {
    this.#clients = clients;
    this.#intervalMs = intervalMs;
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
  }

  /** Connects to all, and begins. Their writes are spread over the interval. */
  static async start(places: readonly ClientPlace[], intervalMs: number): Promise<LightClients> {
    const connected: NbdClient[] = [];
    for (const { socket, exportName } of places) {
      connected.push(await connectNbd({ network: nodeNetwork, address: { kind: 'unix', path: socket }, exportName }));
    }
    const nowMs = performance.now();
    const clients = connected.map((client, index) => ({
      client,
      chance: new Chance(index + 1),
      dueMs: nowMs + (intervalMs * index) / places.length,
    }));
    return new LightClients(clients, intervalMs);
  }

  /** Milliseconds of the writes that were due in that time and are answered, in order of their size. */
  lateness(fromMs: number, untilMs: number): number[] {
    return this.#answered
      .filter(({ dueMs }) => dueMs >= fromMs && dueMs < untilMs)
      .map(({ lateMs }) => lateMs)
      .sort((a, b) => a - b);
  }

  /** Sends nothing more; resolves when all is answered. Rejects when a write has failed. */
  async stop(): Promise<void> {
    clearInterval(this.#timer);
    for (const { client } of this.#clients) {
      await client.flush();
      await client.close();
    }
    if (this.#failure !== undefined) throw this.#failure;
  }

  #tick(): void {
    const nowMs = performance.now();
    for (const one of this.#clients) {
      while (one.dueMs <= nowMs && one.client.inFlightCount < IN_FLIGHT_MAX) {
        this.#write(one, one.dueMs);
        one.dueMs += this.#intervalMs;
      }
    }
  }

  #write({ client, chance }: LightClient, dueMs: number): void {
    const data = randomFillSync(Buffer.allocUnsafe(WRITE_SIZE));
    client.write(chance.below(client.size / WRITE_SIZE) * WRITE_SIZE, data).then(
      () => this.#answered.push({ dueMs, lateMs: performance.now() - dueMs }),
      (error: unknown) => {
        this.#failure ??= error;
      },
    );
  }
}
