/** What a replica begins with, and what it tells its session. */

export interface ReplicaEvents {
  /** Something waits to be sent. `ended`: it ends an epoch, so that somebody may wait for it. */
  appended(ended: boolean): void;
  /** A merged part of the backlog is next to be sent. */
  mergedReady(): void;
  /** The backlog overran: order has been given up. */
  overran(): void;
}

/** How a replica begins. */
export interface ReplicaStart {
  /** Sequence of the last operation before this process. */
  readonly sequence: number;
  readonly checkpoint: number;
  /** A clean stop vouches that the mirror lacks at most what the backlog holds. */
  readonly inOrder: boolean;
}
