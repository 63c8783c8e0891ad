/** Making an export a block device of this host, with the kernel's NBD client. */
import { Failure } from '../base/failure.ts';
import { deviceExists, isAttached, mountPoint } from '../io/kernel-device.ts';
import { findProgram, runInForeground, shellText } from '../io/programs.ts';

export interface AttachConfig {
  /** Such as /dev/nbd0. */
  readonly device: string;
  readonly server: { readonly host: string; readonly port: number } | { readonly socket: string };
  /** Empty: the server's default export. */
  readonly exportName: string;
  readonly connections: number;
  readonly timeoutSeconds: number;
  readonly readOnly: boolean;
  /** Only say what would be run. */
  readonly dryRun: boolean;
}

/** Called with each command before it is run, as it can be pasted into a shell. */
type Announce = (command: string) => void;

/**
 * Loads the kernel module if need be and attaches. Failures: `usage`, `program-missing`, `program-failed`,
 * `device-missing`, `device-busy`.
 */
export function attach(config: AttachConfig, announce: Announce): void {
  const name = deviceName(config.device);
  if (config.dryRun) {
    announce('modprobe nbd');
    announce(shellText(['nbd-client', ...clientArguments(config)]));
    return;
  }
  const client = requireClient();
  if (!deviceExists(name)) loadModule(name, announce);
  if (isAttached(name)) throw new Failure('device-busy', `${config.device} is attached already`);
  run([client, ...clientArguments(config)], announce);
}

/** Gives the device back. Failures: `usage`, `program-missing`, `program-failed`, `device-busy` when it is mounted. */
export function detach(device: string, dryRun: boolean, announce: Announce): void {
  const name = deviceName(device);
  if (!dryRun && !deviceExists(name)) throw new Failure('device-missing', `${device} does not exist`);
  const mounted = mountPoint(name);
  if (mounted !== undefined) throw new Failure('device-busy', `${device} is mounted at ${mounted}`);
  if (dryRun) announce(shellText(['nbd-client', '-d', device]));
  else run([requireClient(), '-d', device], announce);
}

/**
 * Arguments of nbd-client. Sectors of 512 bytes suit every file system, whatever it was made with. There is a timeout,
 * or a host that vanished would hang its users for good. Not `-persist`, which loses writes that are in flight.
 */
export function clientArguments(config: Omit<AttachConfig, 'dryRun'>): string[] {
  const { server } = config;
  return [
    ...('socket' in server ? ['-unix', server.socket] : [server.host, String(server.port)]),
    config.device,
    ...(config.exportName === '' ? [] : ['-name', config.exportName]),
    ...['-block-size', '512', '-timeout', String(config.timeoutSeconds)],
    ...(config.connections === 1 ? [] : ['-connections', String(config.connections)]),
    ...(config.readOnly ? ['-readonly'] : []),
  ];
}

function deviceName(device: string): string {
  const match = /^\/dev\/(nbd\d{1,4})$/.exec(device);
  if (match === null) throw new Failure('usage', `${JSON.stringify(device)} is not an NBD device such as /dev/nbd0`);
  return match[1]!;
}

function requireClient(): string {
  const client = findProgram('nbd-client');
  if (client === undefined)
    throw new Failure('program-missing', 'nbd-client is not installed (apt install nbd-client)');
  return client;
}

function loadModule(name: string, announce: Announce): void {
  const modprobe = findProgram('modprobe');
  try {
    if (modprobe === undefined) throw new Failure('program-missing', 'modprobe is not installed (apt install kmod)');
    run([modprobe, 'nbd'], announce);
  } catch (error) {
    throw new Failure('device-missing', `/dev/${name} does not exist and the nbd module cannot be loaded`, {
      cause: error,
    });
  }
  if (!deviceExists(name)) throw new Failure('device-missing', `/dev/${name} does not exist, also with the nbd module`);
}

function run(command: readonly string[], announce: Announce): void {
  announce(shellText(command));
  runInForeground(command);
}
