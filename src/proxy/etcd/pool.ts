// The clusters that sessions share.

import type { OpenPayload } from "../../ipc/frame.ts";
import { Cluster } from "./cluster.ts";

/** A cluster that nobody uses is kept for so long, for the next backend. */
const GRACE_MS = 60_000;

interface Entry {
  cluster: Cluster;
  users: number;
  closing: ReturnType<typeof setTimeout> | null;
}

export class ClusterPool {
  readonly #entries = new Map<string, Entry>();

  constructor(readonly graceMs = GRACE_MS) {}

  /** The cluster of these endpoints and this login, and the call that gives it back. */
  acquire(open: OpenPayload): { cluster: Cluster; release: () => void } {
    const key = JSON.stringify([open.endpoints, open.username, open.password, open.connectTimeout]);
    let entry = this.#entries.get(key);
    if (entry === undefined) {
      entry = { cluster: new Cluster(open), users: 0, closing: null };
      this.#entries.set(key, entry);
    }
    const held = entry;
    held.users++;
    if (held.closing !== null) clearTimeout(held.closing);
    held.closing = null;
    let released = false;
    return {
      cluster: held.cluster,
      release: () => {
        if (released) return;
        released = true;
        if (--held.users > 0) return;
        held.closing = setTimeout(() => {
          this.#entries.delete(key);
          held.cluster.close();
        }, this.graceMs);
      },
    };
  }

  /** Clusters in use or kept. */
  get size(): number {
    return this.#entries.size;
  }
}
