// What a transaction has written so far: for each key the versions that its commands left, newest last. A read sees the
// newest one of the commands before its own; a subtransaction that is rolled back takes its versions along.

import { BTree } from "./btree.ts";
import { printable } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import type { KeyRange } from "../../etcd/keyrange.ts";
import { type StageEntry, StageKind } from "../../ipc/stage.ts";

/** What must hold in etcd when the transaction commits. */
export type Guard = { absent: true } | { mod: bigint } | null;

export interface Version {
  level: number;
  command: number;
  /** Null: deleted. */
  value: Uint8Array | null;
  lease: bigint;
  guard: Guard;
  /** As etcd has the key; 0 for one that the transaction has made. */
  createRevision: bigint;
  version: bigint;
}

export interface Write {
  key: Uint8Array;
  version: Version;
}

/** Bytes as a string that sorts as they do. */
export function sortable(key: Uint8Array): string {
  let text = "";
  // In pieces: a call takes so many arguments only.
  for (let at = 0; at < key.length; at += 8192) text += String.fromCharCode(...key.subarray(at, at + 8192));
  return text;
}

interface Slot {
  id: string;
  key: Uint8Array;
  versions: Version[];
}

/** What a version takes beside its bytes. */
const VERSION_BYTES = 150;

export class StagedWrites {
  readonly #slots = new BTree<string, Slot>();
  /** Which slots a level has written to, so that ending a small subtransaction of a large transaction costs little. */
  readonly #touched = new Map<number, Set<Slot>>();
  readonly #mostBytes: number;
  #bytes = 0;

  /** @param mostBytes What the transaction may hold here. */
  constructor(mostBytes: number) {
    this.#mostBytes = mostBytes;
  }

  get size(): number {
    return this.#slots.size;
  }

  /** Whether an INSERT of this key collides with what the transaction has written itself. Undefined: only etcd knows. */
  exists(key: Uint8Array): boolean | undefined {
    const last = this.#slots.get(sortable(key))?.versions.at(-1);
    return last === undefined ? undefined : last.value !== null;
  }

  /** Adds a row's write. Throws EtcdFdwError 53200 when the transaction holds too much, 23505 for a key that it has made. */
  add(entry: StageEntry, level: number, command: number): void {
    const id = sortable(entry.key);
    const slot = this.#slots.get(id);
    const last = slot?.versions.at(-1);
    if (entry.kind === StageKind.INSERT && last !== undefined && last.value !== null) {
      throw duplicateKey(entry.key);
    }
    const isDelete = entry.kind === StageKind.DELETE;
    const size = VERSION_BYTES + entry.value.length + (slot === undefined ? entry.key.length : 0);
    if (this.#bytes + size > this.#mostBytes) throw tooMuch(this.#mostBytes);
    this.#bytes += size;
    const version: Version = {
      level,
      command,
      // Copies: the frame that they came in is larger, and must not be kept for them.
      value: isDelete ? null : entry.value.slice(),
      lease: entry.lease,
      guard: last !== undefined ? last.guard : guardOf(entry),
      createRevision: last?.createRevision ?? entry.seenCreate,
      version: last?.version ?? entry.seenVersion,
    };
    if (slot === undefined) {
      const made = { id, key: entry.key.slice(), versions: [version] };
      this.#slots.set(id, made);
      this.#touch(level, made);
    } else {
      slot.versions.push(version);
      this.#touch(level, slot);
    }
  }

  #touch(level: number, slot: Slot): void {
    const touched = this.#touched.get(level);
    if (touched === undefined) this.#touched.set(level, new Set([slot]));
    else touched.add(slot);
  }

  /** Takes what levels from this one up have touched. */
  #takeTouched(level: number): Slot[] {
    const taken: Slot[] = [];
    for (const [of, slots] of this.#touched) {
      if (of < level) continue;
      taken.push(...slots);
      this.#touched.delete(of);
    }
    return taken;
  }

  /** The key's newest version that commands before this one wrote. */
  find(key: Uint8Array, command: number): Version | undefined {
    return visible(this.#slots.get(sortable(key)), command);
  }

  /** What commands before this one wrote in the range, in the order of the keys. */
  within(range: KeyRange, command: number): Write[] {
    const writes: Write[] = [];
    const end = range.end === null ? undefined : sortable(range.end);
    for (const [id, slot] of this.#slots.entries(sortable(range.start))) {
      if (end !== undefined && id >= end) break;
      const version = visible(slot, command);
      if (version !== undefined) writes.push({ key: slot.key, version });
    }
    return writes;
  }

  /** What the transaction comes to, in the order of the keys. */
  final(): Write[] {
    return this.within({ start: new Uint8Array(0), end: null }, Infinity);
  }

  /** Drops what subtransactions of this level and above wrote. */
  rollback(level: number): void {
    for (const slot of this.#takeTouched(level)) {
      const kept = slot.versions.filter((version) => version.level < level);
      for (const version of slot.versions.slice(kept.length)) {
        this.#bytes -= VERSION_BYTES + (version.value?.length ?? 0);
      }
      slot.versions = kept;
      if (kept.length > 0 || !this.#slots.delete(slot.id)) continue;
      this.#bytes -= slot.key.length;
    }
  }

  /** What the level wrote belongs to the one below it from now on. */
  release(level: number): void {
    for (const slot of this.#takeTouched(level)) {
      for (const version of slot.versions) if (version.level >= level) version.level = level - 1;
      this.#touch(level - 1, slot);
    }
  }
}

function visible(slot: Slot | undefined, command: number): Version | undefined {
  if (slot === undefined) return undefined;
  for (let i = slot.versions.length - 1; i >= 0; i--) {
    if (slot.versions[i].command < command) return slot.versions[i];
  }
  return undefined;
}

function guardOf({ kind, seenMod }: StageEntry): Guard {
  if (kind === StageKind.INSERT) return { absent: true };
  return kind === StageKind.UPSERT ? null : { mod: seenMod };
}

/** The key of a statement's row that is there already. */
export function duplicateKey(key: Uint8Array): EtcdFdwError {
  return new EtcdFdwError("23505", `duplicate key in etcd: "${printable(key)}"`, {
    detail: "The key already exists.",
  });
}

function tooMuch(mostBytes: number): EtcdFdwError {
  return new EtcdFdwError("53200", "out of memory for the writes of a transaction on etcd", {
    detail: `A transaction may hold ${Math.floor(mostBytes / 1024 / 1024)} MB until it commits.`,
    hint: "Commit more often, set the server's max_staged_mb, or write with write_mode 'immediate'.",
  });
}
