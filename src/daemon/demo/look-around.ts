/** What to do with a demonstration that goes on serving: how to attach the disk and look at the mirror's image. */
import path from 'node:path';
import { shellText } from '../../io/programs.ts';
import { clientArguments } from '../attach.ts';
import { PROGRAM, type Stage } from './stage.ts';

const ATTACH_TIMEOUT_SECONDS = 90;

/** Lines for a person. */
export function lookAround(stage: Stage, isFileSystem: boolean): string[] {
  const { host, port } = stage.nbdAddress;
  const attach = clientArguments({
    device: '/dev/nbd0',
    server: { host, port },
    exportName: 'disk',
    connections: 1,
    timeoutSeconds: ATTACH_TIMEOUT_SECONDS,
    readOnly: false,
  });
  const mount = isFileSystem ? ['   sudo mount /dev/nbd0 /mnt'] : [];
  const look = isFileSystem ? ['   sudo mount -o ro,noload /dev/loopN /mnt      # the device that losetup named'] : [];
  return [
    'Primary and mirror go on. To use the disk:',
    '   sudo modprobe nbd',
    `   sudo ${shellText(['nbd-client', ...attach])}`,
    ...mount,
    'To look at the mirror’s image, while it is being kept:',
    `   sudo losetup -r -f --show ${shellText([stage.imagePath])}`,
    ...look,
    'To watch both, from another terminal:',
    `   NBDTWIN_RUNTIME_DIR=${shellText([stage.runtimeDirectory])} node ${shellText([path.relative('.', PROGRAM)])} status --watch`,
    '',
    'Ctrl-C stops both and removes everything.',
  ];
}
