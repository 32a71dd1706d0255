// What a session has written itself: no cache may show it an older state.

import { answerHeader } from "../../etcd/ranges.ts";

export class Written {
  /** By etcd's id of the cluster: users and lists of endpoints may differ. */
  readonly #revisions = new Map<bigint, bigint>();
  /** ClusterHandle.cluster: a write's outcome is not known there, and so neither is its revision. */
  readonly #doubts = new WeakSet<object>();

  /** etcd's answer to a request that may have written. */
  note(reply: Uint8Array): void {
    const { cluster, revision } = answerHeader(reply);
    if (revision > this.revisionOf(cluster)) this.#revisions.set(cluster, revision);
  }

  /** A request that may have written has failed. */
  doubt(cluster: object): void {
    this.#doubts.add(cluster);
  }

  /** The latest revision that was written; 0 for none. */
  revisionOf(cluster: bigint): bigint {
    return this.#revisions.get(cluster) ?? 0n;
  }

  isDoubtful(cluster: object): boolean {
    return this.#doubts.has(cluster);
  }

  /** The session has been shown a state that is newer than what is in doubt. */
  settle(cluster: object): void {
    this.#doubts.delete(cluster);
  }
}
