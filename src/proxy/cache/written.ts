// What a session has written itself: no cache may show it an older state.

import { answerHeader } from "../../etcd/ranges.ts";

export class Written {
  /** By etcd's id of the cluster: users and lists of endpoints may differ. */
  readonly #revisions = new Map<bigint, bigint>();
  /** That id, of ClusterHandle.cluster, as far as it is known. */
  readonly #ids = new WeakMap<object, bigint>();
  /** Where a write's outcome is not known, and so neither is its revision; the number of the last such write. */
  readonly #doubts = new Map<object, number>();
  #doubted = 0;

  /** etcd's answer to a request that may have written. */
  note(on: object, reply: Uint8Array): void {
    const { cluster, revision } = answerHeader(reply);
    this.identify(on, cluster);
    if (revision > this.revisionOf(cluster)) this.#revisions.set(cluster, revision);
  }

  /** Which cluster that is; 0 when it is not known. */
  identify(on: object, cluster: bigint): void {
    if (cluster !== 0n) this.#ids.set(on, cluster);
  }

  /** A request that may have written has failed. */
  doubt(on: object): void {
    this.#doubts.set(on, ++this.#doubted);
  }

  /** The latest revision that was written; 0 for none. */
  revisionOf(cluster: bigint): bigint {
    return this.#revisions.get(cluster) ?? 0n;
  }

  /** What must be seen there: 0 for anything, null when no revision says it. */
  floorOf(on: object): bigint | null {
    if (this.#doubtsOf(on).length > 0) return null;
    const id = this.#ids.get(on);
    if (id !== undefined) return this.revisionOf(id);
    // Whatever was written may have been written there.
    return this.#revisions.size === 0 ? 0n : null;
  }

  /** What has been doubted up to now: settle() takes it. */
  get doubted(): number {
    return this.#doubted;
  }

  /** The session has been shown a state that is newer than all that was in doubt then. */
  settle(on: object, doubted: number): void {
    for (const one of this.#doubtsOf(on)) if (this.#doubts.get(one)! <= doubted) this.#doubts.delete(one);
  }

  /** Doubts about what may be the same cluster, whatever the way to it. */
  #doubtsOf(on: object): object[] {
    const id = this.#ids.get(on);
    return [...this.#doubts.keys()].filter((one) => {
      const other = this.#ids.get(one);
      return one === on || id === undefined || other === undefined || id === other;
    });
  }
}
