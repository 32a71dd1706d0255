// What etcd_fdw tells about itself.

import { Ask } from "../../ipc/frame.ts";
import { VERSION } from "../../base/version.ts";
import { type AnyFunction, type Cell, jsonPayload, jsonReply, simple, text } from "./call.ts";

const instant = (ms: number) => new Date(ms).toISOString();

/** What CERTIFICATES answers with; times in milliseconds since the epoch. */
interface Certificate {
  source: string;
  endpoint: string;
  subject: string;
  issuer: string;
  notBefore: number;
  notAfter: number;
}

const STAT_NUMBERS = [
  ...["calls", "rows", "bytes_sent", "bytes_received", "errors", "latency_sum", "latency_max"],
  ...[
    "coalesced",
    "grouped",
    "retries",
    "failovers",
    "transactions",
    "cache_hits",
    "cache_misses",
    "cache_bytes",
  ],
];

const CACHE_NUMBERS = ["keys", "bytes", "hits", "misses", "verifications", "repairs"];

const ofProxy = (method: number) => () => ({ method, payload: jsonPayload({}), proxy: true as const });

export const MONITOR: Record<string, AnyFunction> = {
  etcd_fdw_core_version: { begin: () => ({ rows: [[text(VERSION)]] }) },
  etcd_fdw_stat_rows: simple(
    ofProxy(Ask.STAT),
    (reply) =>
      (jsonReply(reply) as Record<string, Cell>[]).map((row) => [
        ...[text(String(row.database)), text(String(row.server)), text(String(row.role))],
        ...STAT_NUMBERS.map((name) => row[name]),
      ]),
  ),
  etcd_fdw_stat_reset: simple(ofProxy(Ask.STAT_RESET), (reply) => [[jsonReply(reply)]]),
  etcd_fdw_cache_rows: simple(
    ofProxy(Ask.CACHES),
    (reply) =>
      (jsonReply(reply) as Record<string, Cell>[]).map((row) => [
        ...[text(String(row.database)), text(String(row.server)), text(String(row.role))],
        ...[text(String(row.key)), row.range_end === null ? null : text(String(row.range_end))],
        ...[text(String(row.state)), row.revision],
        ...CACHE_NUMBERS.map((name) => row[name]),
      ]),
  ),
  etcd_fdw_proxy_row: simple(ofProxy(Ask.PROXY), (reply) => {
    const about = jsonReply(reply);
    return [[
      ...[about.pid, text(about.version), text(about.deno), instant(about.started_at)],
      ...[about.memory_resident, about.memory_heap, about.sessions, about.clusters, about.connections],
    ]];
  }),
  etcd_fdw_certificate_rows: simple(
    () => ({ method: Ask.CERTIFICATES, payload: jsonPayload({}) }),
    (reply) =>
      (jsonReply(reply) as Certificate[]).map((
        { source, endpoint, subject, issuer, notBefore, notAfter },
      ) => [
        ...[text(source), text(subject), text(issuer), instant(notBefore), instant(notAfter)],
        endpoint === "" ? null : text(endpoint),
      ]),
  ),
};
