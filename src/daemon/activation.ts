/**
 * Socket activation: systemd listens and hands the sockets over as descriptors from 3 on.
 * @see sd_listen_fds(3)
 */
import { Failure } from '../base/failure.ts';
import type { Address } from '../io/network.ts';

const FIRST_DESCRIPTOR = 3;
const DESCRIPTORS_MAX = 64;

/**
 * The sockets meant for the process `pid`, none without activation. Takes the variables out of `environment`, so that
 * no child believes they are its own. Failures: `config-invalid`.
 */
export function activationSockets(environment: NodeJS.ProcessEnv, pid: number): Address[] {
  const { LISTEN_PID: listenPid, LISTEN_FDS: listenFds } = environment;
  delete environment['LISTEN_PID'];
  delete environment['LISTEN_FDS'];
  delete environment['LISTEN_FDNAMES'];
  if (listenFds === undefined || listenPid !== String(pid)) return [];
  const count = Number(listenFds);
  if (!Number.isInteger(count) || count < 0 || count > DESCRIPTORS_MAX) {
    throw new Failure('config-invalid', `LISTEN_FDS=${listenFds} is not a number from 0 to ${DESCRIPTORS_MAX}`);
  }
  return Array.from({ length: count }, (_, index) => ({ kind: 'descriptor', descriptor: FIRST_DESCRIPTOR + index }));
}
