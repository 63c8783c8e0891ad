/** What the two kinds of TLS need to know, without any I/O. */

/** One key of a secret file: GnuTLS psktool's `identity:hexkey`. */
export interface PresharedKey {
  readonly identity: string;
  readonly key: Uint8Array;
}

/** The link between primary and mirror: TLS 1.3, external PSK with X25519, TLS_AES_128_GCM_SHA256, nothing else. */
export interface LinkTls {
  /** A mirror accepts any of these; a primary uses the only one, or the one named by --identity. */
  readonly keys: readonly PresharedKey[];
}

/** STARTTLS of the NBD server. */
export interface NbdTls {
  readonly keys?: readonly PresharedKey[];
  /** PEM texts. */
  readonly certificate?: { readonly certificate: string; readonly key: string; readonly clientAuthority?: string };
}
