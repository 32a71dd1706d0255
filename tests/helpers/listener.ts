// Listens to a channel as an application does, and judges what it hears of a subscription beside etcd's own history.

import assert from "node:assert/strict";
// @ts-types="@types/pg"
import type pg from "pg";
import type { Database } from "./database.ts";
import { waitFor } from "./wait.ts";

/** An event as a notification tells it. */
export interface Told {
  subscription: string;
  kind: "put" | "delete" | "resync";
  key?: string;
  key_base64?: string;
  mod_revision: number;
  value?: string;
  value_base64?: string;
  prev_value?: string;
  create_revision?: number;
  version?: number;
  lease?: string;
  omitted?: boolean;
  nth?: number;
}

/** What etcd says has happened, in its order. */
export interface Happened {
  kind: string;
  key: string;
  value: string | null;
  mod_revision: number;
}

export class Listener {
  /** In the order of arrival; batches are taken apart. */
  readonly told: Told[] = [];
  readonly payloads: string[] = [];
  /** Revisions up to `to` may be missing behind `from`: nobody listened. */
  readonly gaps: { from: number; to: number }[] = [];
  #client: pg.Client | null = null;
  #open = true;

  private constructor(readonly db: Database, readonly channel: string, readonly subscription: string) {}

  static async on(db: Database, channel: string, subscription = channel): Promise<Listener> {
    const listener = new Listener(db, channel, subscription);
    await listener.#connect(true);
    return listener;
  }

  async #connect(first: boolean): Promise<void> {
    const client = await this.db.connect();
    client.on("notification", ({ payload }) => {
      this.payloads.push(payload!);
      const parsed = JSON.parse(payload!) as Told | Told[];
      this.told.push(...(Array.isArray(parsed) ? parsed : [parsed]));
    });
    client.on("end", () => {
      if (this.#client === client && this.#open) this.#reconnect();
    });
    this.#client = client;
    const from = this.last;
    await client.query(`LISTEN "${this.channel}"`);
    if (first) return;
    // What was told before the LISTEN, nobody has heard; all behind the position is still to come.
    const rows = await client.query("SELECT revision FROM etcd_fdw_subscriptions WHERE name = $1", [
      this.subscription,
    ]);
    this.gaps.push({ from, to: Number(rows.rows[0]?.revision ?? from) });
  }

  #reconnect(): void {
    this.#connect(false).catch(() => this.#open && setTimeout(() => this.#reconnect(), 100));
  }

  get last(): number {
    return this.told.at(-1)?.mod_revision ?? 0;
  }

  /** Waits until so many events have been heard. */
  async count(events: number, timeoutMs = 10_000): Promise<Told[]> {
    await waitFor(`${events} events (there are ${this.told.length})`, () => this.told.length >= events, {
      timeoutMs,
    });
    return this.told;
  }

  /** Takes what was heard. */
  take(): Told[] {
    this.payloads.length = 0;
    return this.told.splice(0);
  }

  /** That all that happened was told, once and in order, except for what nobody could hear. */
  agreesWith(history: Happened[]): void {
    const named = this.told.map(({ kind, key, value = null, mod_revision }) => ({
      ...{ kind, key: key!, value, mod_revision },
    }));
    for (let i = 1; i < named.length; i++) {
      assert.ok(
        named[i].mod_revision >= named[i - 1].mod_revision,
        `${named[i - 1].mod_revision}, ${named[i].mod_revision}`,
      );
    }
    const id = ({ mod_revision, key }: Happened) => `${mod_revision} ${key}`;
    const heard = new Map(named.map((event) => [id(event), event]));
    assert.equal(heard.size, named.length, "something was told twice");
    const inGap = (revision: number) => this.gaps.some(({ from, to }) => revision > from && revision <= to);
    for (const event of history) {
      const found = heard.get(id(event));
      if (found === undefined) {
        assert.ok(inGap(event.mod_revision), `${id(event)} was not told: ${JSON.stringify(this.gaps)}`);
      } else assert.deepEqual(found, event);
      heard.delete(id(event));
    }
    assert.deepEqual([...heard.keys()], [], "told, but did not happen");
  }

  async end(): Promise<void> {
    this.#open = false;
    await this.#client?.end().catch(() => {});
  }
}
