// What a transaction knows of each key: one record, which states what must hold of the key in etcd when it commits, whether
// that was read or comes with a write, and leads to the versions that its commands left. A read sees the newest version of
// the commands before its own; a subtransaction that is rolled back takes its versions along.
//
// Keys, values and numbers lie in an arena; an object is made only for what is looked at.
//
// What is rolled back is a hole in the arena: its versions count for nothing from then on. Taking them out of the tree, which
// others would have to wait for if there are many, is done by and by.

import { BTree } from "./btree.ts";
import { compareBytes, printableKey } from "../../base/bytes.ts";
import { EtcdFdwError } from "../../base/errors.ts";
import { type StageEntry, StageKind } from "../../ipc/stage.ts";
import type { Budget } from "../memory.ts";
import { Arena, Spare } from "./arena.ts";

/** What must be known of a key: nothing. */
export const ANYTHING = -1n;
/** The key must not exist: its mod_revision is 0. */
export const ABSENT = 0n;

/** Why something must hold. */
const READ = 1;
const WRITTEN = 2;
const INSERTED = 4;
/** etcd was asked, and did not have the key. */
const VERIFIED = 8;

/** A key as a command sees it. Its bytes are the arena's: good until the transaction ends. */
export interface Write {
  key: Uint8Array;
  /** Null: deleted. */
  value: Uint8Array | null;
  lease: bigint;
  command: number;
  /** The only version that the transaction has made of the key. */
  first: boolean;
  /** Its mod_revision in etcd; or ANYTHING or ABSENT. */
  expected: bigint;
  /** The key was inserted, and not read: that it exists is a duplicate. */
  inserted: boolean;
  /** It was inserted, and etcd did not have the key when it was. */
  verified: boolean;
  /** The transaction has read the key, so that the expectation must hold even if nothing is written in the end. */
  read: boolean;
  /** As etcd has the key; 0 for one that the transaction has made. */
  createRevision: bigint;
  version: bigint;
}

/** A piece of what was asked for, and the key at which the next one begins; null behind the last one. */
export interface Block {
  writes: Write[];
  next: Uint8Array | null;
}

/** What was rolled back. */
interface Hole {
  from: number;
  to: number;
  /** The next version to be taken out, and the one before the first of them. */
  version: number;
  last: number;
  /** Whether nothing but versions, and records that go with them, lies there. */
  isFree: boolean;
}

/** Where versions of a level begin, and the last one before. */
interface Mark {
  level: number;
  place: number;
  newest: number;
}

/** Versions of a hole that are taken out at once, and with each row that is added. */
const AT_ONCE = 1024;
const BY_THE_WAY = 4;

/** What a key's place in the tree costs, beside its record. */
const NODE_BYTES = 40;
/** Keys that are looked at without a pause. */
const BLOCK = 256;

/** A record: u32 newest version, u32 flags, i64 expected, i64 create_revision, i64 version, u32 length, the key. */
const KEY_HEAD = 36;
/** A version: u32 of the key's one before it, u32 of the transaction's, u32 record, u32 level, u32 command, u32 length, i64 lease, the value. */
const VERSION_HEAD = 32;
const DELETED = 0xffffffff;
/** Places begin with 1: 0 is none. */
const at = (place: number) => place - 1;
/** The key that is looked for, in the tree's order. */
const PROBE = 0;

type Tree = InstanceType<typeof BTree<number, number>>;

export class Records {
  readonly #arena: Arena;
  readonly #budget: Budget;
  /** The records with versions, and those that were read alone, by their keys. */
  readonly #written: Tree = this.#tree();
  readonly #read: Tree = this.#tree();
  #probe: Uint8Array = new Uint8Array(0);
  /** From which place on versions are of which level; levels rise. */
  #marks: Mark[] = [{ level: 0, place: 0, newest: 0 }];
  #newest = 0;
  /** What is still to be taken out, the oldest first. */
  #holes: Hole[] = [];
  readonly #atOnce: number;
  /** Behind the last record that outlives its subtransaction. */
  #keep = 0;
  #nodes = 0;

  constructor(budget: Budget, spare = new Spare(), atOnce = AT_ONCE) {
    this.#budget = budget;
    this.#arena = new Arena(budget, spare);
    this.#atOnce = atOnce;
  }

  #tree(): Tree {
    return new BTree<number, number>(undefined, (a, b) => this.#compare(a, b));
  }

  /** Keys with versions, of which some may have been rolled back. */
  get size(): number {
    return this.#written.size;
  }

  /** Whether the transaction has noted what it has read. */
  get hasReads(): boolean {
    return this.#keep > 0;
  }

  #compare(a: number, b: number): number {
    const left = a === PROBE ? this.#probe : this.#arena.bytes(at(a));
    const right = b === PROBE ? this.#probe : this.#arena.bytes(at(b));
    const from = a === PROBE ? 0 : this.#arena.offset(at(a)) + KEY_HEAD;
    const other = b === PROBE ? 0 : this.#arena.offset(at(b)) + KEY_HEAD;
    const length = a === PROBE ? left.length : this.#number(a, 32);
    const otherLength = b === PROBE ? right.length : this.#number(b, 32);
    for (let i = 0; i < length && i < otherLength; i++) {
      if (left[from + i] !== right[other + i]) return left[from + i] - right[other + i];
    }
    return length - otherLength;
  }

  #keyOf(record: number): Uint8Array {
    const from = this.#arena.offset(at(record)) + KEY_HEAD;
    return this.#arena.bytes(at(record)).subarray(from, from + this.#number(record, 32));
  }

  #find(key: Uint8Array): number {
    this.#probe = key;
    return this.#written.get(PROBE) ?? this.#read.get(PROBE) ?? 0;
  }

  /** The record of the key, as far as it is left by what was rolled back. */
  #findLeft(key: Uint8Array): number {
    const record = this.#find(key);
    if (record === 0 || this.#holes.length === 0) return record;
    this.#clean(record);
    return this.#find(key);
  }

  /** The number at this byte of a record or version. */
  #number(place: number, byte: number): number {
    return this.#arena.view(at(place)).getUint32(this.#arena.offset(at(place)) + byte);
  }

  #setNumber(place: number, byte: number, value: number): void {
    this.#arena.view(at(place)).setUint32(this.#arena.offset(at(place)) + byte, value);
  }

  #wide(place: number, byte: number): bigint {
    return this.#arena.view(at(place)).getBigInt64(this.#arena.offset(at(place)) + byte);
  }

  #setWide(place: number, byte: number, value: bigint): void {
    this.#arena.view(at(place)).setBigInt64(this.#arena.offset(at(place)) + byte, value);
  }

  /** Room in the arena, and if there is none, what was rolled back makes some. */
  #allocate(size: number): number {
    try {
      return this.#arena.allocate(size);
    } catch (error) {
      if (this.#holes.length === 0) throw error;
      this.#takeOut(Infinity);
      return this.#arena.allocate(size);
    }
  }

  /** A record of the key that expects nothing yet. */
  #create(key: Uint8Array, tree: Tree): number {
    const record = this.#allocate(KEY_HEAD + key.length) + 1;
    this.#budget.take(NODE_BYTES);
    this.#nodes++;
    const begin = this.#arena.offset(at(record));
    const bytes = this.#arena.bytes(at(record));
    bytes.fill(0, begin, begin + KEY_HEAD);
    this.#setWide(record, 8, ANYTHING);
    this.#setNumber(record, 32, key.length);
    bytes.set(key, begin + KEY_HEAD);
    tree.set(record, record);
    return record;
  }

  /** States what must hold of the key. Throws EtcdFdwError 40001 when it contradicts what must hold already. */
  #expect(record: number, expected: bigint, why: number): void {
    const known = this.#wide(record, 8);
    if (known !== ANYTHING && known !== expected) throw conflict(this.#keyOf(record));
    this.#setWide(record, 8, expected);
    this.#setNumber(record, 4, this.#number(record, 4) | why);
  }

  /**
   * Notes that the transaction has read the key with this mod_revision, 0 for none. Throws EtcdFdwError 40001 when it has
   * seen it otherwise, 53200 when it holds too much.
   */
  noteRead(key: Uint8Array, mod: bigint): void {
    const record = this.#findLeft(key) || this.#create(key, this.#read);
    this.#expect(record, mod, READ);
    this.#keep = Math.max(this.#keep, this.#arena.top);
  }

  /** Whether an INSERT of this key collides with what the transaction has written itself. Undefined: only etcd knows. */
  exists(key: Uint8Array): boolean | undefined {
    const record = this.#find(key);
    const newest = record === 0 ? 0 : this.#newestOf(record);
    return newest === 0 ? undefined : this.#number(newest, 20) !== DELETED;
  }

  /**
   * Adds a row's write. Throws EtcdFdwError 53200 when the transaction holds too much, 23505 for a key that it has made,
   * 40001 for one that it has seen otherwise, 27000 for a row that a later command has written since the statement saw it.
   */
  add(entry: StageEntry, level: number, command: number, verified = false): void {
    this.#enter(level);
    this.#takeOut(BY_THE_WAY);
    let record = this.#findLeft(entry.key);
    const before = record === 0 ? 0 : this.#number(record, 0);
    const isInsert = entry.kind === StageKind.INSERT;
    if (before !== 0 && entry.seenMod !== 0n && !this.#agrees(record, before, entry, command)) return;
    if (isInsert && before !== 0 && this.#number(before, 20) !== DELETED) throw duplicateKey(entry.key);
    const isDelete = entry.kind === StageKind.DELETE;
    if ((isDelete || entry.kind === StageKind.UPDATE) && this.#changedSince(before, command)) {
      throw changedWithin(isDelete);
    }
    const length = isDelete ? 0 : entry.value.length;
    const version = this.#allocate(VERSION_HEAD + length) + 1;
    if (record === 0) record = this.#create(entry.key, this.#written);
    if (before === 0) {
      // What the transaction's own row was made from is told by its first version.
      if (entry.kind !== StageKind.UPSERT) {
        const why = isInsert ? WRITTEN | INSERTED | (verified ? VERIFIED : 0) : WRITTEN;
        this.#expect(record, isInsert ? ABSENT : entry.seenMod, why);
      }
      this.#setWide(record, 16, entry.seenCreate);
      this.#setWide(record, 24, entry.seenVersion);
      if (this.#read.delete(record)) this.#written.set(record, record);
    }
    [before, this.#newest, record, level, command, isDelete ? DELETED : length].forEach((number, i) =>
      this.#setNumber(version, 4 * i, number)
    );
    this.#setWide(version, 24, entry.lease);
    if (!isDelete) {
      this.#arena.bytes(at(version)).set(entry.value, this.#arena.offset(at(version)) + VERSION_HEAD);
    }
    this.#setNumber(record, 0, version);
    this.#newest = version;
  }

  /** Whether a later command than this one has written the key, be it that the statement has inserted it again since. */
  #changedSince(newest: number, command: number): boolean {
    for (let version = newest; version !== 0; version = this.#number(version, 0)) {
      const written = this.#number(version, 16);
      // What was there when the statement began is older.
      if (written !== command) return written > command;
    }
    return false;
  }

  /**
   * About a write to a row that the statement saw in etcd though the transaction has written the key: by the same statement,
   * or by an INSERT that etcd was not asked about. Throws EtcdFdwError 23505 where that INSERT collides with the row. False:
   * the row was overwritten by an upsert of the same command, and is not there to be deleted.
   */
  #agrees(record: number, before: number, entry: StageEntry, command: number): boolean {
    const flags = this.#number(record, 4);
    if ((flags & INSERTED) !== 0 && this.#wide(record, 8) === ABSENT) throw duplicateKey(entry.key);
    const isThere = this.#number(before, 20) !== DELETED;
    const overwritten = this.#wide(record, 8) === ANYTHING && isThere && this.#number(before, 16) === command;
    return !(overwritten && entry.kind === StageKind.DELETE);
  }

  /** What comes is of this level: those above it have ended. */
  #enter(level: number): void {
    const top = this.#marks[this.#marks.length - 1];
    if (top.level === level) return;
    if (top.level > level) this.release(level + 1);
    if (this.#marks[this.#marks.length - 1].level < level) {
      this.#marks.push({ level, place: this.#arena.top, newest: this.#newest });
    }
  }

  /** Forgets the marks of this level and above; the lowest of them. */
  #popMarks(level: number): Mark {
    let mark: Mark = { level, place: this.#arena.top, newest: this.#newest };
    while (this.#marks[this.#marks.length - 1].level >= level) mark = this.#marks.pop()!;
    return mark;
  }

  /** What the level wrote belongs to the one below it from now on. */
  release(level: number): void {
    const popped = this.#marks[this.#marks.length - 1].level >= level;
    const mark = this.#popMarks(level);
    if (popped && this.#marks[this.#marks.length - 1].level < level - 1) {
      this.#marks.push({ ...mark, level: level - 1 });
    }
  }

  /** Drops what subtransactions of this level and above wrote. What they read was read. */
  rollback(level: number): void {
    const { place, newest } = this.#popMarks(level);
    const range = { from: place, to: this.#arena.top, isFree: this.#keep <= place };
    this.#holes.push({ ...range, version: this.#newest, last: newest });
    this.#newest = newest;
    this.#takeOut(this.#atOnce);
  }

  /** Takes so many versions that were rolled back out; whether none is left. */
  #takeOut(most: number): boolean {
    let left = most;
    for (let hole = this.#holes.at(0); hole !== undefined && left > 0; hole = this.#holes.at(0)) {
      for (; hole.version !== hole.last && left > 0; left--) {
        const version = hole.version;
        hole.version = this.#number(version, 4);
        this.#clean(this.#number(version, 8));
      }
      if (hole.version === hole.last) this.#fill(hole);
    }
    return this.#holes.length === 0;
  }

  /** Nothing refers to the oldest hole any more. */
  #fill({ from, to, isFree }: Hole): void {
    this.#holes.shift();
    if (!isFree) return;
    if (to < this.#arena.top) return this.#arena.free(from, to);
    this.#arena.truncate(from);
    // What comes next lies there: it was not rolled back, and is of the level that has begun.
    for (const hole of this.#holes) {
      hole.from = Math.min(hole.from, from);
      hole.to = Math.min(hole.to, from);
    }
    for (const mark of this.#marks) mark.place = Math.min(mark.place, from);
  }

  /** Takes all out that was rolled back. Yields where others may run. */
  *settle(): Generator<undefined, void, unknown> {
    while (!this.#takeOut(BLOCK)) yield;
  }

  #isDropped(version: number): boolean {
    return this.#holes.some(({ from, to }) => at(version) >= from && at(version) < to);
  }

  /** The newest version of the record that was not rolled back; 0 for none. */
  #newestOf(record: number): number {
    let version = this.#number(record, 0);
    if (this.#holes.length === 0) return version;
    while (version !== 0 && this.#isDropped(version)) version = this.#number(version, 0);
    return version;
  }

  /** Takes the record's versions out that were rolled back. */
  #clean(record: number): void {
    const newest = this.#newestOf(record);
    if (newest === this.#number(record, 0)) return;
    this.#setNumber(record, 0, newest);
    if (newest === 0) this.#unwrite(record);
  }

  /** The record has no version any more. */
  #unwrite(record: number): void {
    const flags = this.#number(record, 4) & READ;
    this.#setNumber(record, 4, flags);
    this.#written.delete(record);
    if (flags !== 0) {
      this.#read.set(record, record);
      return;
    }
    this.#nodes--;
    this.#budget.give(NODE_BYTES);
  }

  /** Gives all memory back. */
  clear(): void {
    this.#written.clear();
    this.#read.clear();
    this.#arena.truncate(0);
    this.#budget.give(this.#nodes * NODE_BYTES);
    this.#marks = [{ level: 0, place: 0, newest: 0 }];
    this.#holes = [];
    [this.#nodes, this.#newest, this.#keep] = [0, 0, 0];
  }

  #writeOf(record: number, version: number): Write {
    const length = version === 0 ? DELETED : this.#number(version, 20);
    const from = version === 0 ? 0 : this.#arena.offset(at(version)) + VERSION_HEAD;
    const flags = this.#number(record, 4);
    return {
      key: this.#keyOf(record),
      value: length === DELETED ? null : this.#arena.bytes(at(version)).subarray(from, from + length),
      lease: version === 0 ? 0n : this.#wide(version, 24),
      command: version === 0 ? 0 : this.#number(version, 16),
      first: version !== 0 && this.#number(version, 0) === 0,
      expected: this.#wide(record, 8),
      inserted: (flags & INSERTED) !== 0 && (flags & READ) === 0,
      read: (flags & READ) !== 0,
      verified: (flags & VERIFIED) !== 0,
      createRevision: this.#wide(record, 16),
      version: this.#wide(record, 24),
    };
  }

  /** The key's newest version that commands before this one wrote; 0 for none. */
  #visible(record: number, command: number): number {
    let version = this.#newestOf(record);
    while (version !== 0 && this.#number(version, 16) >= command) version = this.#number(version, 0);
    return version;
  }

  /** What commands before this one made of the key. */
  find(key: Uint8Array, command: number): Write | undefined {
    this.#probe = key;
    const record = this.#written.get(PROBE) ?? 0;
    const version = record === 0 ? 0 : this.#visible(record, command);
    return version === 0 ? undefined : this.#writeOf(record, version);
  }

  /** What commands before this one wrote from a key on and before the end, in the order of the keys. */
  block(start: Uint8Array, end: Uint8Array | null, command: number): Block {
    const writes: Write[] = [];
    let seen = 0;
    this.#probe = start;
    for (const [record] of this.#written.entries(PROBE)) {
      const key = this.#keyOf(record);
      if (end !== null && compareBytes(key, end) >= 0) break;
      if (seen++ === BLOCK) return { writes, next: key.slice() };
      const version = this.#visible(record, command);
      if (version !== 0) writes.push(this.#writeOf(record, version));
    }
    return { writes, next: null };
  }

  /** The same backwards, from before `end` down to `start`; the next block ends where this one does. */
  blockBefore(start: Uint8Array, end: Uint8Array | null, command: number): Block {
    const writes: Write[] = [];
    let seen = 0;
    let last: Uint8Array | null = null;
    this.#probe = end ?? new Uint8Array(0);
    for (const [record] of this.#written.entriesReversed(end === null ? undefined : PROBE, undefined, true)) {
      const key = this.#keyOf(record);
      if (compareBytes(key, start) < 0) break;
      if (seen++ === BLOCK) return { writes, next: last!.slice() };
      const version = this.#visible(record, command);
      if (version !== 0) writes.push(this.#writeOf(record, version));
      last = key;
    }
    return { writes, next: null };
  }

  /** The records of one kind in the order of their keys, for `final`: good while nothing changes. */
  all(kind: "written" | "read"): number[] {
    this.#takeOut(Infinity);
    return (kind === "written" ? this.#written : this.#read).keysArray();
  }

  /** What the transaction comes to for a record. */
  final(record: number): Write {
    return this.#writeOf(record, this.#number(record, 0));
  }
}

/** The key of a statement's row that is there already. */
export function duplicateKey(key: Uint8Array): EtcdFdwError {
  return new EtcdFdwError("23505", `duplicate key in etcd: "${printableKey(key)}"`, {
    detail: "The key already exists.",
  });
}

/** A function or trigger of the statement has changed the row that it is about to change. */
function changedWithin(isDelete: boolean): EtcdFdwError {
  const what = isDelete ? "deleted" : "updated";
  return new EtcdFdwError(
    "27000",
    `tuple to be ${what} was already modified by an operation triggered by the current command`,
    {
      hint: "Consider using an AFTER trigger instead of a BEFORE trigger to propagate changes to other rows.",
    },
  );
}

/** Another client has changed the key, if it is known which. */
export function conflict(key?: Uint8Array): EtcdFdwError {
  return new EtcdFdwError("40001", "could not serialize access due to concurrent update in etcd", {
    detail: key === undefined ? "" : `The key "${printableKey(key)}" was changed by another client.`,
    hint: "The transaction might succeed if retried.",
  });
}
