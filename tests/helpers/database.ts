// PostgreSQL as a test talks to it: one session for the test's statements, one to act on that session from outside.

// @ts-types="@types/pg"
import pg from "pg";
import type { Sandbox } from "../../scripts/lib/sandbox.ts";
import { startPostgres, stopPostgres } from "../../scripts/lib/servers.ts";

export type Row = Record<string, unknown>;

/** The parts of pg's DatabaseError that tests look at. */
export interface SqlError extends Error {
  code: string;
  detail?: string;
  hint?: string;
  /** The error context. */
  where?: string;
}

export class Database {
  #client: pg.Client | null = null;
  #control: pg.Client | null = null;

  constructor(readonly sandbox: Sandbox) {}

  /** A further session, with these settings if any (`name=value`), which RESET keeps. The caller ends it. */
  async connect(user = "postgres", database?: string, settings: string[] = []): Promise<pg.Client> {
    const { PGHOST, PGPORT, PGDATABASE } = this.sandbox.env();
    const client = new pg.Client({
      host: PGHOST,
      port: Number(PGPORT),
      database: database ?? PGDATABASE,
      user,
      options: settings.map((setting) => `-c ${setting}`).join(" "),
    });
    await client.connect();
    // A server that stops ends idle sessions too; that is not the client's failure.
    client.on("error", () => {});
    return client;
  }

  /** Runs one statement with values, or several without; the rows of the last. 64-bit numbers are strings. */
  // deno-lint-ignore no-explicit-any -- a column's type is what the test's SQL makes it
  async sql(text: string, values?: unknown[]): Promise<Record<string, any>[]> {
    this.#client ??= await this.connect();
    const result = await this.#client.query(text, values) as pg.QueryResult | pg.QueryResult[];
    return (Array.isArray(result) ? result.at(-1)! : result).rows;
  }

  /** The error of a statement that must fail. */
  async failure(text: string): Promise<SqlError> {
    const error = await this.sql(text).then(() => null, (thrown: SqlError) => thrown);
    if (error === null) throw new Error(`no error from: ${text}`);
    return error;
  }

  /** Makes ready what {@linkcode cancel} needs, so that its time is the cancel's alone. */
  async prepareCancel(): Promise<() => Promise<void>> {
    const [{ pid }] = await this.sql("SELECT pg_backend_pid() AS pid");
    this.#control ??= await this.connect();
    const control = this.#control;
    return async () => void await control.query("SELECT pg_cancel_backend($1)", [pid]);
  }

  /** Ends the sessions and stops the server; "kill" is SIGKILL to the postmaster. */
  async stopServer(mode: "fast" | "immediate" | "kill"): Promise<void> {
    const server = this.sandbox.description.postgres;
    if (mode === "kill") {
      const pid = parseInt(await Deno.readTextFile(`${server.data}/postmaster.pid`), 10);
      Deno.kill(pid, "SIGKILL");
    } else await stopPostgres(server, mode);
    await this.disconnect();
  }

  async startServer(): Promise<void> {
    const server = this.sandbox.description.postgres;
    // After a kill, the postmaster's children need a moment to see it; the start fails until they are gone.
    for (let attempt = 1;; attempt++) {
      try {
        return await startPostgres(server);
      } catch (error) {
        if (attempt === 20) throw error;
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    }
  }

  async disconnect(): Promise<void> {
    const clients = [this.#client, this.#control];
    this.#client = this.#control = null;
    await Promise.all(clients.map((client) => client?.end().catch(() => {})));
  }
}
