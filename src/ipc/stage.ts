// Writes of a transaction on their way from the backend to the proxy, which keeps them until the transaction ends. The
// backend writes these payloads (src/backend/txn/stage.c), row by row and without core's help, as core has planned it.
//
// Payload of STAGE frames by their code, all numbers big-endian:
//   WRITE         u32 level, u32 command, u8 flags (StageFlag), i64 revision, then entries:
//                 u8 kind (StageKind), i64 seen mod_revision, i64 seen create_revision, i64 seen version, i64 lease,
//                 u32 length of the key, the key, u32 length of the value, the value
//   DELETE_RANGE  u32 level, u32 command, u8 flags, i64 revision, then a TxnRequest of the ranges to be read
//   ROLLBACK      u32 level: what this level and those above it wrote is dropped
//   RELEASE       u32 level: what this level wrote is now the one's below it
//   COMMIT, END   nothing
//   GRANT         i64 seconds, u32 level: a lease, which is revoked if the transaction or that level is rolled back
// The revision is the one that the whole transaction reads, 0 where there is none.
// A level is PostgreSQL's nesting of subtransactions, a command its command id: a read sees what commands before its own
// wrote. With an id, WRITE, DELETE_RANGE, COMMIT and GRANT are answered by REPLY (StageReply) or ERROR; without one, what goes wrong
// is told by the next answer.

import { EtcdFdwError } from "../base/errors.ts";

export const StageCode = {
  WRITE: 1,
  DELETE_RANGE: 2,
  ROLLBACK: 3,
  RELEASE: 4,
  COMMIT: 5,
  END: 6,
  GRANT: 7,
} as const;

export const StageFlag = {
  /** Keys of INSERT entries are looked up now; those that exist are answered and not staged. */
  CHECK: 1,
  /** etcd is written to now, and the answer tells at which revision. */
  IMMEDIATE: 2,
  /** What DELETE_RANGE reads must still hold when the transaction commits. */
  RECORDED: 4,
} as const;

export const StageKind = {
  /** The key must not exist. */
  INSERT: 1,
  /** The key must be as it was seen. */
  UPDATE: 2,
  DELETE: 3,
  /** Whatever there is. */
  UPSERT: 4,
} as const;

export interface StageEntry {
  kind: number;
  /** As the statement saw the row; 0 where the transaction itself wrote it. */
  seenMod: bigint;
  seenCreate: bigint;
  seenVersion: bigint;
  lease: bigint;
  key: Uint8Array;
  value: Uint8Array;
}

export interface StageHeader {
  level: number;
  command: number;
  flags: number;
  revision: bigint;
}

const HEADER_BYTES = 17;
const ENTRY_BYTES = 1 + 4 * 8 + 2 * 4;

function malformed(): EtcdFdwError {
  return new EtcdFdwError("08P01", "malformed stage frame");
}

/** The header of WRITE and DELETE_RANGE, and what follows. Throws EtcdFdwError 08P01. */
export function decodeStageHeader(payload: Uint8Array): { header: StageHeader; rest: Uint8Array } {
  if (payload.length < HEADER_BYTES) throw malformed();
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  const header = {
    ...{ level: view.getUint32(0), command: view.getUint32(4), flags: view.getUint8(8) },
    revision: view.getBigInt64(9),
  };
  return { header, rest: payload.subarray(HEADER_BYTES) };
}

/** The entries of WRITE; keys and values are views of the payload. Throws EtcdFdwError 08P01. */
export function decodeStageEntries(bytes: Uint8Array): StageEntry[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const entries: StageEntry[] = [];
  let at = 0;
  const part = () => {
    if (at + 4 > bytes.length) throw malformed();
    const length = view.getUint32(at);
    at += 4 + length;
    if (at > bytes.length) throw malformed();
    return bytes.subarray(at - length, at);
  };
  while (at < bytes.length) {
    if (at + ENTRY_BYTES > bytes.length) throw malformed();
    const numbers = [0, 1, 2, 3].map((i) => view.getBigInt64(at + 1 + 8 * i));
    const kind = bytes[at];
    at += 1 + 4 * 8;
    const [seenMod, seenCreate, seenVersion, lease] = numbers;
    entries.push({ kind, seenMod, seenCreate, seenVersion, lease, key: part(), value: part() });
  }
  return entries;
}

/** What GRANT asks for. Throws EtcdFdwError 08P01. */
export function decodeGrant(payload: Uint8Array): { seconds: bigint; level: number } {
  if (payload.length !== 12) throw malformed();
  const view = new DataView(payload.buffer, payload.byteOffset, 12);
  return { seconds: view.getBigInt64(0), level: view.getUint32(8) };
}

/** The level of ROLLBACK and RELEASE. Throws EtcdFdwError 08P01. */
export function decodeLevel(payload: Uint8Array): number {
  if (payload.length !== 4) throw malformed();
  return new DataView(payload.buffer, payload.byteOffset, 4).getUint32(0);
}

/** Payload of a REPLY to a STAGE frame: i64 revision, u32 count, u32 how many are refused, then u32 for each of these. */
export interface StageReply {
  /** At which etcd was written, 0 when it was not; of DELETE_RANGE that is staged, which was read; of GRANT, the lease. */
  revision: bigint;
  /** Keys that DELETE_RANGE deletes; Txns that COMMIT took. */
  count: number;
  /** Indexes of the entries whose keys exist. */
  refused: number[];
}

export function encodeStageReply({ revision, count, refused }: StageReply): Uint8Array {
  const bytes = new Uint8Array(16 + 4 * refused.length);
  const view = new DataView(bytes.buffer);
  view.setBigInt64(0, revision);
  view.setUint32(8, count);
  view.setUint32(12, refused.length);
  refused.forEach((index, i) => view.setUint32(16 + 4 * i, index));
  return bytes;
}

/** What the backend writes; for tests. */
export function encodeStageWrite(
  { level, command, flags, revision = 0n }: Omit<StageHeader, "revision"> & Partial<StageHeader>,
  entries: StageEntry[],
): Uint8Array {
  const size = entries.reduce(
    (sum, { key, value }) => sum + ENTRY_BYTES + key.length + value.length,
    HEADER_BYTES,
  );
  const bytes = new Uint8Array(size);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, level);
  view.setUint32(4, command);
  view.setUint8(8, flags);
  view.setBigInt64(9, revision);
  let at = HEADER_BYTES;
  for (const { kind, seenMod, seenCreate, seenVersion, lease, key, value } of entries) {
    view.setUint8(at, kind);
    [seenMod, seenCreate, seenVersion, lease].forEach((number, i) =>
      view.setBigInt64(at + 1 + 8 * i, number)
    );
    at += 1 + 4 * 8;
    for (const part of [key, value]) {
      view.setUint32(at, part.length);
      bytes.set(part, at + 4);
      at += 4 + part.length;
    }
  }
  return bytes;
}
