// TxnRequests of any number of guarded writes, by nesting.
//
// etcd counts operations, and comparisons, per level: a nested Txn may have as many as its parent's limit less what the
// parent has itself. So with a limit of 128, 64 groups of 64 are 4,096, and three levels are some 77,000. All comparisons,
// nested ones too, are made before anything is applied.
//
// One that fails must take everything down with it. A group's failing branch therefore reads, at a revision that is not
// there yet, one of the keys that are compared: etcd checks the path that it is about to take before it applies anything, and refuses the whole Txn. That asks
// for no right beyond the comparison's own, and is an answer that nothing else in such a Txn can cause.
//
// Where etcd may have users, the first level asks for their rights to all keys (rights.ts).

import { EtcdFdwError } from "../base/errors.ts";
import { type KeyRange, singleKey } from "./keyrange.ts";
import { covering, RIGHT_BYTES, type Rights, rightsSize, writeRights } from "./rights.ts";
import { fieldSize, Out, wideSize } from "./wire.ts";

/** What must hold of a key, or of all keys of a range, when the Txn is applied. */
export interface Guard {
  key: Uint8Array;
  /** Absent: the single key. */
  rangeEnd?: Uint8Array;
  /** The mod_revision that the key must have, 0 for no such key; of a range, what all of them must be below. */
  mod: bigint;
}

export type WriteOp =
  | { put: { key: Uint8Array; value: Uint8Array; lease: bigint } }
  | { delete: { key: Uint8Array; rangeEnd?: Uint8Array } };

/** One guard, one operation, or both. */
export interface Step {
  guard: Guard | null;
  op: WriteOp | null;
}

/** What etcd takes. */
export interface Nesting {
  /** Operations, and comparisons, that etcd takes on each level of a Txn. */
  maxTxnOps: number;
  /** Whether Txns may be nested. */
  nested: boolean;
  /** Whether there may be users, whose rights are to hold on all levels. */
  rights: boolean;
}

/** Levels beyond which nothing is gained. */
const MAX_LEVELS = 4;
/** The last revision that there can be. */
const NEVER = 2n ** 63n - 1n;

/** The fan-outs of so many levels, whose sum is the limit. */
function evenly(limit: number, levels: number): number[] {
  return Array.from({ length: levels }, (_, i) => Math.floor((limit + i) / levels));
}

/** The steps that so many levels hold. */
function capacity(limit: number, levels: number): number {
  let product = 1;
  for (let i = 0; i < levels; i++) product *= Math.floor((limit + i) / levels);
  return product;
}

/** Fan-outs from the root to the leaves for so many steps; null when they do not fit. One level: a flat Txn. */
export function levelsFor(steps: number, limit: number, nested: boolean): number[] | null {
  for (let levels = 1; levels <= (nested ? MAX_LEVELS : 1); levels++) {
    if (capacity(limit, levels) >= steps) return evenly(limit, levels);
  }
  return null;
}

/** The most steps that one Txn holds. */
export function mostSteps(limit: number, nested: boolean): number {
  let most = limit;
  for (let levels = 2; nested && levels <= MAX_LEVELS; levels++) {
    most = Math.max(most, capacity(limit, levels));
  }
  return most;
}

function guardBody({ key, rangeEnd, mod }: Guard): number {
  const size = 4 + fieldSize(key.length) + 1 + wideSize(mod);
  return rangeEnd === undefined ? size : size + 1 + fieldSize(rangeEnd.length);
}

function opBody(op: WriteOp): number {
  if ("delete" in op) {
    const { key, rangeEnd } = op.delete;
    return fieldSize(key.length) + (rangeEnd === undefined ? 0 : fieldSize(rangeEnd.length));
  }
  const { key, value, lease } = op.put;
  return fieldSize(key.length) + fieldSize(value.length) + (lease === 0n ? 0 : 1 + wideSize(lease));
}

/** Of RequestRange: the key, and the revision. */
const neverBody = (key: Uint8Array) => fieldSize(key.length) + 1 + wideSize(NEVER);

/** The bytes that a step takes in a Txn. */
export function stepSize({ guard, op }: Step): number {
  return (guard === null ? 0 : fieldSize(guardBody(guard))) +
    (op === null ? 0 : fieldSize(fieldSize(opBody(op))));
}

/** The tags and lengths that a group adds, and those of a failing branch beside its key. */
const GROUP_BYTES = 12;
const FAILING_BYTES = 28;

/**
 * The most bytes that so many steps take as a Txn beside their own, the shortest of their guarded keys being so long; null:
 * they have no guard.
 */
export function groupingBytes(
  steps: number,
  shortest: number | null,
  { maxTxnOps, nested, rights }: Nesting,
): number {
  const fanOuts = levelsFor(steps, maxTxnOps, nested) ?? [];
  let groups = 0;
  let each = 1;
  let leaves = 0;
  for (let level = fanOuts.length - 1; level > 0; level--) {
    each *= fanOuts[level];
    groups += Math.ceil(steps / each);
    leaves ||= groups;
  }
  return groups * GROUP_BYTES + (shortest === null ? 0 : leaves * (FAILING_BYTES + shortest)) +
    (rights && fanOuts.length > 1 ? fanOuts[0] * RIGHT_BYTES : 0);
}

/** Of TxnRequest. */
const COMPARE = 1 << 3 | 2;
const SUCCESS = 2 << 3 | 2;
const FAILURE = 3 << 3 | 2;
/** Of RequestOp. */
const RANGE = 1 << 3 | 2;
const PUT = 2 << 3 | 2;
const DELETE_RANGE = 3 << 3 | 2;
const TXN = 4 << 3 | 2;
/** Of the messages in these: the first two fields. */
const FIRST = 1 << 3 | 2;
const SECOND = 2 << 3 | 2;
/** Of Compare: result, target, key, mod_revision, range_end. */
const COMPARE_LESS = 2;
const COMPARE_MOD = 2;

function writeGuard(out: Out, guard: Guard): void {
  const { key, rangeEnd, mod } = guard;
  out.open(COMPARE, guardBody(guard));
  out.open(1 << 3, rangeEnd === undefined ? 0 : COMPARE_LESS);
  out.open(2 << 3, COMPARE_MOD);
  out.field(3 << 3 | 2, key);
  out.wide(6 << 3, mod);
  if (rangeEnd === undefined) return;
  out.varint(64 << 3 | 2);
  out.varint(rangeEnd.length);
  out.raw(rangeEnd);
}

function writeOp(out: Out, op: WriteOp): void {
  const body = opBody(op);
  out.open(SUCCESS, fieldSize(body));
  out.open("put" in op ? PUT : DELETE_RANGE, body);
  if ("put" in op) {
    out.field(FIRST, op.put.key);
    out.field(SECOND, op.put.value);
    if (op.put.lease !== 0n) out.wide(3 << 3, op.put.lease);
    return;
  }
  out.field(FIRST, op.delete.key);
  if (op.delete.rangeEnd !== undefined) out.field(SECOND, op.delete.rangeEnd);
}

/** The steps of a Txn by their index. */
export type StepAt = (index: number) => Step;

/** A Txn and what is in it: steps, or groups. */
interface Group {
  from: number;
  to: number;
  groups: Group[];
  /** Of the message. */
  size: number;
  /** The shortest of its own guarded keys; null: nothing of its own can fail. */
  guarded: Uint8Array | null;
}

function leaf(from: number, to: number, stepAt: StepAt): Group {
  let size = 0;
  let guarded: Uint8Array | null = null;
  for (let i = from; i < to; i++) {
    const step = stepAt(i);
    size += stepSize(step);
    guarded = shorter(guarded, step.guard?.key ?? null);
  }
  return { from, to, groups: [], size, guarded };
}

function shorter(a: Uint8Array | null, b: Uint8Array | null): Uint8Array | null {
  return a === null || b !== null && b.length < a.length ? b : a;
}

/** Makes the groups level by level, without what can only be known when all are. Yields where others may run. */
function* grouped(
  from: number,
  to: number,
  fanOuts: number[],
  stepAt: StepAt,
): Generator<undefined, Group, unknown> {
  if (fanOuts.length === 1) {
    yield;
    return leaf(from, to, stepAt);
  }
  const below = fanOuts.slice(1);
  const each = below.reduce((product, one) => product * one, 1);
  const groups: Group[] = [];
  for (let at = from; at < to; at += each) {
    groups.push(yield* grouped(at, Math.min(at + each, to), below, stepAt));
  }
  return { from, to, groups, size: 0, guarded: null };
}

/** The shortest guarded key of all: what every failing branch reads, so that a long one is not there twice. */
function shortestOf({ groups, guarded }: Group): Uint8Array | null {
  return groups.map(shortestOf).reduce(shorter, guarded);
}

/** Adds what the groups and their failing branches take. */
function addUp(group: Group, never: number): void {
  for (const inner of group.groups) {
    if (inner.guarded !== null) inner.size += never;
    addUp(inner, never);
    group.size += fieldSize(fieldSize(inner.size));
  }
}

/** @param never What failing branches read. The root has none. */
function* write(
  out: Out,
  group: Group,
  stepAt: StepAt,
  never: Uint8Array | null,
  isRoot: boolean,
): Generator<undefined, void, unknown> {
  for (const inner of group.groups) {
    out.open(SUCCESS, fieldSize(inner.size));
    out.open(TXN, inner.size);
    yield* write(out, inner, stepAt, never, false);
  }
  if (group.groups.length > 0) return;
  const steps = Array.from({ length: group.to - group.from }, (_, i) => stepAt(group.from + i));
  for (const { guard } of steps) if (guard !== null) writeGuard(out, guard);
  for (const { op } of steps) if (op !== null) writeOp(out, op);
  if (group.guarded !== null && never !== null && !isRoot) {
    const body = neverBody(never);
    out.open(FAILURE, fieldSize(body));
    out.open(RANGE, body);
    out.field(FIRST, never);
    out.wide(4 << 3, NEVER);
  }
  yield;
}

function rangeOf({ key, rangeEnd }: { key: Uint8Array; rangeEnd?: Uint8Array }): KeyRange {
  if (rangeEnd === undefined) return singleKey(key);
  return { start: key, end: rangeEnd.length === 1 && rangeEnd[0] === 0 ? null : rangeEnd };
}

const NO_RIGHTS: Rights = { read: [], written: [] };

/** What the steps need, in no more operations than the first level has anyway. */
function* rightsTo(
  from: number,
  to: number,
  most: number,
  stepAt: StepAt,
): Generator<undefined, Rights, unknown> {
  const needed: Rights = { read: [], written: [] };
  for (let i = from; i < to; i++) {
    const { guard, op } = stepAt(i);
    if (guard !== null) needed.read.push(rangeOf(guard));
    if (op !== null) needed.written.push(rangeOf("put" in op ? { key: op.put.key } : op.delete));
    if (i % 256 === 255) yield;
  }
  const each = Math.max(1, Math.floor(most / 2));
  return { read: yield* covering(needed.read, each), written: yield* covering(needed.written, each) };
}

/**
 * A TxnRequest of the steps from one index to another. All of it takes place or nothing: a comparison that fails makes
 * a flat one (one level) answer that it has not succeeded, and a nested one fail with FUTURE_REVISION. Yields where others
 * may run.
 */
export function* encodeSteps(
  from: number,
  to: number,
  fanOuts: number[],
  stepAt: StepAt,
  asksRights: boolean,
): Generator<undefined, Uint8Array, unknown> {
  const root = yield* grouped(from, to, fanOuts, stepAt);
  const never = shortestOf(root);
  addUp(root, never === null ? 0 : fieldSize(fieldSize(neverBody(never))));
  const asks = asksRights && fanOuts.length > 1;
  const rights = asks ? yield* rightsTo(from, to, fanOuts[0], stepAt) : NO_RIGHTS;
  const size = root.size + rightsSize(rights);
  const out = new Out(size);
  yield* write(out, root, stepAt, never, true);
  writeRights(out, rights);
  if (out.at !== size) throw new EtcdFdwError("XX000", "a Txn is not as long as it was counted");
  return out.bytes;
}

/** What etcd's refusal of a nested Txn with a guard that fails is called in errors. */
export const FUTURE_REVISION = "required revision is in the future";
