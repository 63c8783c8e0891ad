/**
 * Failures: the world misbehaving. A bug is an `assert`; everything else that can go wrong is a Failure with a stable
 * code. One table gives each code its exit status (BSD sysexits), whether trying again can help, and a hint that says
 * what to do next. docs/errors.md is generated from the table.
 */

interface FailureKind {
  /** Exit status of the process when this failure ends it. BSD sysexits, and 1 when `verify` finds differences. */
  readonly exit: number;
  /** `never`: only a human can mend it; `slow`: worth a try every minute; `backoff`: worth a try soon. */
  readonly retry: 'never' | 'slow' | 'backoff';
  /** What to do next, for a person. */
  readonly hint: string;
}

export const FAILURES = {
  // The command line and configuration.
  usage: { exit: 64, retry: 'never', hint: 'See `nbdtwin help`.' },
  'config-invalid': { exit: 78, retry: 'never', hint: 'Correct the named option.' },

  // The disk.
  'disk-missing': { exit: 66, retry: 'never', hint: 'Check the path, or make a sparse disk with --create --size 10G.' },
  'disk-unreadable': { exit: 77, retry: 'never', hint: 'Check the permissions of the disk and of its folder.' },
  'disk-not-a-disk': { exit: 66, retry: 'never', hint: 'Give a regular file, a partition or a block device.' },
  'disk-empty': { exit: 65, retry: 'never', hint: 'Give it a size: `truncate -s 10G FILE`, or --create --size 10G.' },
  'disk-exists': { exit: 73, retry: 'never', hint: 'Leave out --create to serve the disk that is there.' },
  'disk-busy': { exit: 75, retry: 'never', hint: 'Another process serves this disk; `nbdtwin status` shows it.' },
  'disk-too-large': { exit: 73, retry: 'never', hint: 'The file system cannot hold a file of that size.' },
  'disk-read-only': { exit: 77, retry: 'never', hint: 'Make the disk writable, or serve it with --read-only.' },

  // Requests to a volume. The NBD server maps these to the protocol's errors.
  'no-space': { exit: 74, retry: 'never', hint: 'Free space on the file system that holds the disk.' },
  'io-error': { exit: 74, retry: 'never', hint: 'The disk reports errors: look at the kernel log and replace it.' },
  'not-permitted': { exit: 77, retry: 'never', hint: 'The export is read-only.' },
  'invalid-request': { exit: 65, retry: 'never', hint: 'The request lies outside the disk or is malformed.' },
  overflow: { exit: 65, retry: 'never', hint: 'The request is larger than the limit; split it.' },
  'not-supported': { exit: 69, retry: 'never', hint: 'The backing store cannot do this; use plain writes.' },
  'shutting-down': { exit: 75, retry: 'backoff', hint: 'The server is stopping; connect again when it is back.' },

  // Listening and connecting.
  'address-in-use': {
    exit: 69,
    retry: 'never',
    hint: 'Choose another port or path, or stop what holds this one.',
  },
  'port-forbidden': { exit: 77, retry: 'never', hint: 'Ports below 1024 need root: choose a higher one.' },
  'address-invalid': { exit: 64, retry: 'never', hint: 'Write HOST:PORT, [IPv6]:PORT or, for a socket, a path.' },
  'address-unavailable': { exit: 68, retry: 'backoff', hint: 'Check the host name and the network.' },
  'peer-unreachable': {
    exit: 69,
    retry: 'backoff',
    hint: 'Check that the other side runs and that no firewall is between.',
  },
  'connection-lost': { exit: 69, retry: 'backoff', hint: 'It will connect again by itself.' },
  'peer-timeout': { exit: 69, retry: 'backoff', hint: 'The other side does not answer; it will be tried again.' },

  // Secrets and TLS.
  'secret-missing': {
    exit: 78,
    retry: 'never',
    hint: 'Make one with `nbdtwin secret new > FILE` and give --secret-file FILE on both sides.',
  },
  'secret-unreadable': {
    exit: 77,
    retry: 'never',
    hint: 'Give a file that this user can read: check its path and permissions.',
  },
  'secret-exposed': { exit: 77, retry: 'never', hint: 'chmod 600 the secret file.' },
  'secret-too-short': { exit: 78, retry: 'never', hint: 'Make a strong one with `nbdtwin secret new`.' },
  'secret-malformed': {
    exit: 78,
    retry: 'never',
    hint: 'Write identity:hexkey lines as psktool does, or one bare secret.',
  },
  'secret-ambiguous': { exit: 78, retry: 'never', hint: 'Name the line to use with --identity.' },
  'secret-rejected': { exit: 77, retry: 'slow', hint: 'Give both sides the same secret file.' },
  'tls-config': { exit: 78, retry: 'never', hint: 'Check the --tls options and the files that they name.' },
  'tls-failed': {
    exit: 76,
    retry: 'backoff',
    hint: 'The TLS handshake failed; the log of the other side may say more.',
  },
  'handshakes-crowded': {
    exit: 75,
    retry: 'backoff',
    hint: 'More connections arrive than prove themselves: look for scanners, and restrict who can reach the port.',
  },

  'scan-failed': { exit: 70, retry: 'backoff', hint: 'A thread that reads the disk ended; it is started anew.' },

  // The link between primary and mirror.
  'peer-foreign': {
    exit: 76,
    retry: 'slow',
    hint: 'The other end is not an nbdtwin of that role; check host and port.',
  },
  'peer-version': { exit: 76, retry: 'slow', hint: 'Install the same release on both sides.' },
  'frame-invalid': { exit: 76, retry: 'backoff', hint: 'The session is opened anew; if this repeats, report it.' },
  'name-invalid': {
    exit: 65,
    retry: 'slow',
    hint: 'Use letters, digits, dot, dash and underscore; no segment may end in .img or .twin.',
  },
  'name-taken': {
    exit: 65,
    retry: 'slow',
    hint: 'Another export owns that name on the mirror; choose another with --export.',
  },
  'identity-refused': {
    exit: 77,
    retry: 'slow',
    hint: 'Start with --export IDENTITY or IDENTITY/NAME, or use the key nbdtwin, which may write all.',
  },
  'image-foreign': {
    exit: 65,
    retry: 'slow',
    hint: 'The mirror holds an image of another volume under that name; move it away or choose another --export.',
  },
  'image-missing': {
    exit: 66,
    retry: 'slow',
    hint: 'Put the image back, or remove its .twin folder as well: then everything is copied anew.',
  },
  'image-unknown': {
    exit: 66,
    retry: 'never',
    hint: 'Give an image that `nbdtwin mirror` keeps: DIR/NAME.img, with DIR/NAME.img.twin beside it.',
  },
  'image-inconsistent': {
    exit: 65,
    retry: 'never',
    hint: 'Do not use this image: parts of it are newer than others. Let its primary complete it, or use another copy.',
  },
  'image-larger': {
    exit: 65,
    retry: 'slow',
    hint: 'The mirror image is larger than the disk; was the wrong disk given, or did it shrink?',
  },
  'image-busy': {
    exit: 75,
    retry: 'slow',
    hint: 'Another primary with the same volume is connected; stop the copy that should not run.',
  },
  'generation-newer': { exit: 65, retry: 'slow', hint: 'The mirror was promoted; this primary is out of date.' },
  'primary-older': {
    exit: 65,
    retry: 'slow',
    hint: 'The mirror has writes that this disk has lost (restored from an older copy?). Start with --rescan to make the mirror like this disk.',
  },
  'mirror-no-space': { exit: 74, retry: 'slow', hint: 'Free space in the mirror directory.' },
  'staging-full': {
    exit: 74,
    retry: 'slow',
    hint: 'Free space on the mirror, raise its --staging-limit, or let it go on without the net: --staging-overflow continue.',
  },
  'mirror-io-error': { exit: 74, retry: 'slow', hint: 'The mirror’s disk reports errors: look at its kernel log.' },
  'mirror-shutting-down': { exit: 75, retry: 'backoff', hint: 'The mirror is stopping; it will be tried again.' },

  // State beside the disk and the mirror directory.
  'state-corrupt': {
    exit: 65,
    retry: 'never',
    hint: 'Restore the .twin folder from a backup. Without it this is a new volume: also move the image on the mirror away.',
  },
  'state-unwritable': { exit: 73, retry: 'never', hint: 'Check permissions and free space of the state directory.' },
  'directory-missing': { exit: 66, retry: 'never', hint: 'Make the directory, or correct the path.' },
  'directory-busy': {
    exit: 75,
    retry: 'never',
    hint: 'Another nbdtwin uses this directory; `nbdtwin status` shows it.',
  },
  'directory-read-only': {
    exit: 73,
    retry: 'never',
    hint: 'nbdtwin must be able to write there: check permissions and mount options.',
  },

  // Commands.
  'runtime-directory': {
    exit: 73,
    retry: 'never',
    hint: 'Its owner alone may enter it (chmod 700), or name another folder in $NBDTWIN_RUNTIME_DIR.',
  },
  'not-running': {
    exit: 69,
    retry: 'never',
    hint: 'Start `nbdtwin serve` or `nbdtwin mirror` first; if one runs, ask as its user (sudo -u USER).',
  },
  'not-answering': {
    exit: 69,
    retry: 'backoff',
    hint: 'Is it stopped (`kill -CONT PID`), or stuck on its disk? The kernel log may say more.',
  },
  'no-primary': { exit: 69, retry: 'never', hint: 'Run it on the primary’s host.' },
  'not-ready': { exit: 75, retry: 'backoff', hint: 'Wait until `nbdtwin status` says streaming.' },
  'differences-found': {
    exit: 1,
    retry: 'never',
    hint: 'Find out which side is right (docs/operations.md). Only if it is the disk: restart the primary with --rescan.',
  },
  'device-missing': {
    exit: 72,
    retry: 'never',
    hint: 'Load the kernel module (`modprobe nbd`) or install it; some cloud and container kernels lack it.',
  },
  'device-busy': { exit: 75, retry: 'never', hint: 'Unmount and `nbdtwin detach` it, or choose another /dev/nbdN.' },
  'program-failed': { exit: 71, retry: 'never', hint: 'Its own message above says why.' },
  'program-missing': { exit: 69, retry: 'never', hint: 'Install the named program.' },
  interrupted: { exit: 130, retry: 'never', hint: 'Stopped on request.' },
} as const satisfies Record<string, FailureKind>;

export type FailureCode = keyof typeof FAILURES;

/** The world misbehaving. Match on `code`, never on `message`. Log it or rethrow it, never both; keep `cause`. */
export class Failure extends Error {
  override name = 'Failure';
  readonly code: FailureCode;

  constructor(code: FailureCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }

  get exit(): number {
    return FAILURES[this.code].exit;
  }

  get retry(): FailureKind['retry'] {
    return FAILURES[this.code].retry;
  }

  get hint(): string {
    return FAILURES[this.code].hint;
  }

  /** For status and JSON. */
  get problem(): { code: FailureCode; message: string; hint: string } {
    return { code: this.code, message: this.message, hint: this.hint };
  }
}

export function isFailure(error: unknown, code?: FailureCode): error is Failure {
  return error instanceof Failure && (code === undefined || error.code === code);
}

/** True when `code` names a kind of failure: for codes that arrive from a peer. */
export function isFailureCode(code: string): code is FailureCode {
  return Object.hasOwn(FAILURES, code);
}

/** The `code` of a system error (`ENOENT`, ...), or undefined. */
export function errnoOf(error: unknown): string | undefined {
  if (error instanceof Error && 'code' in error && typeof error.code === 'string') return error.code;
  return undefined;
}

/** The message of anything thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
