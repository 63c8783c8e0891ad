import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { MIB } from '../../src/base/units.ts';
import { parseTcpAddress } from '../../src/daemon/address.ts';
import { nodeNetwork } from '../../src/io/node-network.ts';
import { connectNbd, type NbdClient } from '../../src/nbd/client.ts';
import { Daemon, type ProcessOptions } from './daemon.ts';
import { temporaryFolder } from './temporary-folder.ts';

/** A secret of 256 bits, the same for all tests. */
export const SECRET_LINE = `nbdtwin:${'5e'.repeat(32)}\n`;

export interface TwinOptions {
  /** Of the disk, which is made. */
  readonly size?: number;
  readonly serve?: readonly string[];
  readonly mirror?: readonly string[];
  /** The primary listens on `Twin.socket` too. */
  readonly socket?: boolean;
  /** A disk that exists, to be served in place of a new file. */
  readonly disk?: string;
  /** A directory that exists, for the mirror in place of a new one. */
  readonly images?: string;
}

/**
 * A primary and a mirror as processes of their own, with a disk, a mirror directory and a secret in a folder that is
 * removed at the end of the test.
 */
export class Twin {
  readonly folder: string;
  /** What the primary serves; the file `disk.img` unless given. */
  readonly disk: string;
  readonly images: string;
  readonly image: string;
  readonly secret: string;
  /** Of NBD clients, with the option `socket`. */
  readonly socket: string;
  readonly #options: TwinOptions;
  primary!: Daemon;
  mirror!: Daemon;

  /** Nothing runs yet. */
  constructor(options: TwinOptions = {}) {
    this.#options = options;
    this.folder = temporaryFolder();
    this.disk = options.disk ?? join(this.folder, 'disk.img');
    this.images = options.images ?? join(this.folder, 'images');
    this.image = join(this.images, 'disk.img');
    this.secret = join(this.folder, 'secret');
    this.socket = join(this.folder, 'nbd.sock');
    writeFileSync(this.secret, SECRET_LINE, { mode: 0o600 });
    if (options.images === undefined) mkdirSync(this.images);
    if (options.disk !== undefined) return;
    writeFileSync(this.disk, '');
    truncateSync(this.disk, options.size ?? 16 * MIB);
  }

  /** Both run, and the mirror is in step. */
  static async inStep(options: TwinOptions = {}): Promise<Twin> {
    const twin = new Twin(options);
    await twin.startMirror();
    await twin.startPrimary();
    await twin.primary.untilInStep();
    return twin;
  }

  async startMirror(listen = '127.0.0.1:0', options: ProcessOptions = {}): Promise<Daemon> {
    const args = ['mirror', this.images, '--listen', listen, '--secret-file', this.secret];
    this.mirror = await Daemon.start(this.folder, [...args, ...(this.#options.mirror ?? [])], options);
    return this.mirror;
  }

  /** Links it to the mirror that was started last, or to `mirror` (host:port). */
  async startPrimary(mirror = `127.0.0.1:${this.mirror.address.port}`, options: ProcessOptions = {}): Promise<Daemon> {
    const args = ['serve', this.disk, '--listen', '127.0.0.1:0', '--mirror', mirror, '--secret-file', this.secret];
    const socket = this.#options.socket === true ? ['--socket', this.socket] : [];
    this.primary = await Daemon.start(this.folder, [...args, ...socket, ...(this.#options.serve ?? [])], options);
    return this.primary;
  }

  /** A connection to the primary. */
  connect(): Promise<NbdClient> {
    return connectTo(this.primary);
  }
}

/** A connection to the default export of a primary, over TCP. */
export function connectTo(primary: Daemon): Promise<NbdClient> {
  const { host, port } = primary.address;
  return connectNbd({ network: nodeNetwork, address: parseTcpAddress(`${host}:${port}`), exportName: '' });
}
