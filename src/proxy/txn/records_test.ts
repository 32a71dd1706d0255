import assert from "node:assert/strict";
import { compareBytes, decodeUtf8, encodeUtf8 } from "../../base/bytes.ts";
import type { EtcdFdwError } from "../../base/errors.ts";
import { StageKind } from "../../ipc/stage.ts";
import { Budget } from "../memory.ts";
import { entry, randomOf } from "../testing_txn.ts";
import { Spare } from "./arena.ts";
import { ANYTHING, type Block, Records, type Write } from "./records.ts";

interface Version {
  level: number;
  command: number;
  value: string | null;
}

/** The same with plain objects. */
class Model {
  keys = new Map<string, Version[]>();
  reads = new Map<string, bigint>();

  visible(key: string, command: number): Version | undefined {
    return this.keys.get(key)?.findLast((version) => version.command < command);
  }

  rows(from: string, to: string, command: number): string[] {
    return [...this.keys.keys()].filter((key) => key >= from && key < to && this.visible(key, command))
      .sort((a, b) => compareBytes(encodeUtf8(a), encodeUtf8(b)))
      .map((key) => `${key}=${this.visible(key, command)!.value}`);
  }

  rollback(level: number): void {
    for (const [key, versions] of this.keys) {
      const kept = versions.filter((version) => version.level < level);
      if (kept.length > 0) this.keys.set(key, kept);
      else this.keys.delete(key);
    }
  }

  release(level: number): void {
    for (const version of [...this.keys.values()].flat()) version.level = Math.min(version.level, level - 1);
  }
}

const text = ({ key, value }: Write) => `${decodeUtf8(key)}=${value === null ? null : decodeUtf8(value)}`;

function all(records: Records, from: string, to: string, command: number, backwards = false): string[] {
  const found: string[] = [];
  let [start, end]: (Uint8Array | null)[] = [encodeUtf8(from), encodeUtf8(to)];
  while (start !== null && end !== null) {
    const block: Block = backwards
      ? records.blockBefore(start, end, command)
      : records.block(start, end, command);
    found.push(...block.writes.map(text));
    if (backwards) end = block.next;
    else start = block.next;
  }
  return backwards ? found.reverse() : found;
}

Deno.test("Records: what plain objects would hold, whatever is written, read, released and rolled back", () => {
  for (let seed = 1; seed <= 30; seed++) {
    const random = randomOf(seed);
    const budget = new Budget(2 ** 30);
    // What is rolled back is taken out at once, later, or some of it.
    const records = new Records(budget, new Spare(), [2048, 0, 5][seed % 3]);
    const model = new Model();
    let level = 1;
    const key = () => `/${random.below(random.chance(0.2) ? 1500 : 300)}`;
    const large = random.chance(0.5);
    for (let command = 1; command <= 1500; command++) {
      const name = key();
      const what = random.below(20);
      if (what === 0) level++;
      else if (what === 1 && level > 1) {
        records.release(level);
        model.release(level);
        level--;
      } else if (what === 2) {
        records.rollback(level);
        model.rollback(level);
        if (random.chance(0.5) && level > 1) level--;
      } else if (what === 3) {
        const known = model.reads.get(name);
        if (known === undefined && model.visible(name, Infinity) === undefined) {
          records.noteRead(encodeUtf8(name), BigInt(command));
          model.reads.set(name, BigInt(command));
        }
      } else {
        const isDelete = random.chance(0.2);
        const value = isDelete
          ? null
          : String(command).repeat(large && random.chance(0.01) ? random.below(100_000) : 3);
        const kind = isDelete ? StageKind.DELETE : StageKind.UPSERT;
        const written = entry(kind, name, value ?? "");
        // A DELETE says what it has seen.
        records.add({ ...written, seenMod: model.reads.get(name) ?? 5n }, level, command);
        const versions = model.keys.get(name) ?? [];
        model.keys.set(name, [...versions, { level, command, value }]);
      }
      if (command % 50 !== 0) continue;
      const seen = command - random.below(100);
      const [from, to] = [key(), key()].sort();
      assert.deepEqual(all(records, from, to, seen), model.rows(from, to, seen), `seed ${seed}`);
      assert.deepEqual(
        all(records, from, to, seen, true),
        model.rows(from, to, seen),
        `seed ${seed}, backwards`,
      );
      assert.ok(records.size >= model.keys.size);
      if (random.chance(0.3)) {
        Array.from(records.settle());
        assert.equal(records.size, model.keys.size);
      }
      assert.equal(records.exists(encodeUtf8(name)), orUndefined(model.visible(name, Infinity)));
    }
    for (const [name, mod] of model.reads) {
      const record = [...records.all("read"), ...records.all("written")].map((one) => records.final(one))
        .find((write) => decodeUtf8(write.key) === name)!;
      assert.equal(record.expected, mod);
      assert.ok(record.read);
    }
    records.clear();
    assert.equal(budget.used, 0);
  }
});

function orUndefined(version: Version | undefined): boolean | undefined {
  return version === undefined ? undefined : version.value !== null;
}

Deno.test("Records: one record states what must hold of a key, and a contradiction is 40001 at once", () => {
  const refused = (act: () => void, code: string) =>
    assert.throws(act, (error: EtcdFdwError) => error.sqlstate === code);
  const key = encodeUtf8("/a");
  const row = { ...entry(StageKind.UPDATE, "/a"), seenMod: 5n };
  const fresh = () => new Records(new Budget(1_000_000));
  const read = fresh();
  read.noteRead(key, 5n);
  read.noteRead(key, 5n);
  refused(() => read.noteRead(key, 6n), "40001");
  refused(() => read.add({ ...row, seenMod: 6n }, 1, 1), "40001");
  refused(() => read.add(entry(StageKind.INSERT, "/a"), 1, 1), "40001");
  read.add(row, 2, 1);
  read.rollback(2);
  assert.equal(read.size, 0);
  assert.equal(read.final(read.all("read")[0]).expected, 5n);
  const written = fresh();
  written.add(row, 1, 1);
  written.noteRead(key, 5n);
  refused(() => written.noteRead(key, 7n), "40001");
  const upsert = fresh();
  upsert.add(entry(StageKind.UPSERT, "/a"), 1, 1);
  assert.equal(upsert.final(upsert.all("written")[0]).expected, ANYTHING);
  refused(() => upsert.add(entry(StageKind.INSERT, "/a"), 1, 2), "23505");
});

Deno.test("Records: what they cost is what is counted, and what does not fit changes nothing", () => {
  const budget = new Budget(200_000);
  const records = new Records(budget);
  records.add(entry(StageKind.UPSERT, "/a", "1"), 1, 1);
  const small = budget.used;
  assert.ok(small < 8192, `${small} bytes for one row`);
  const large = entry(StageKind.UPSERT, "/b", "x".repeat(500_000));
  assert.throws(() => records.add(large, 1, 2), (error: EtcdFdwError) => error.sqlstate === "53200");
  assert.equal(budget.used, small);
  assert.deepEqual(all(records, "/", "0", 10), ["/a=1"]);
  records.clear();
  assert.equal(budget.used, 0);
});

Deno.test("Records: what is rolled back gives its memory back, whether all at once, by and by or for want of it", () => {
  const rows = (records: Records, from: number, level: number) => {
    for (let i = 0; i < 20_000; i++) {
      records.add(entry(StageKind.UPSERT, `/${from + i}`, "x".repeat(100)), level, 1);
    }
  };
  const small = (records: Records) => records.add(entry(StageKind.UPSERT, "/a", "1"), 1, 1);
  const need = new Budget(2 ** 30);
  rows(new Records(need), 0, 2);
  for (const atOnce of [Infinity, 100, 0]) {
    for (const again of [false, true]) {
      const budget = new Budget(need.used * 1.3);
      const records = new Records(budget, new Spare(), atOnce);
      small(records);
      const before = budget.used;
      rows(records, 0, 2);
      records.rollback(2);
      if (again) {
        rows(records, 50_000, 2);
        assert.ok(budget.used < need.used * 1.3);
        records.rollback(2);
      }
      assert.deepEqual(all(records, "/", "0", 10), ["/a=1"]);
      Array.from(records.settle());
      assert.equal(records.size, 1);
      // The first buffer may have grown to a whole one.
      assert.ok(budget.used <= before + 256 * 1024 * 2, `${budget.used} bytes are left, ${again} ${atOnce}`);
      rows(records, 0, 3);
      assert.equal(records.size, 20_001);
      records.clear();
      assert.equal(budget.used, 0);
    }
  }
});

Deno.test("Records: a row that a later command has written is not the earlier one's to change", () => {
  const row = (kind: number) => ({ ...entry(kind, "/a", "x"), seenMod: 5n });
  const { UPDATE, DELETE, UPSERT, INSERT } = StageKind;
  for (const within of [UPDATE, DELETE]) {
    for (const kind of [UPDATE, DELETE]) {
      const records = new Records(new Budget(1_000_000));
      records.add(row(within), 2, 4);
      assert.throws(() => records.add(row(kind), 2, 3), (error: EtcdFdwError) => error.sqlstate === "27000");
      records.rollback(2);
      // It was taken back. The same command, and those after it, may change the row.
      for (const command of [3, 3, 4]) records.add(row(UPDATE), 1, command);
      assert.throws(
        () => records.add(entry(kind, "/a"), 1, 3),
        (error: EtcdFdwError) => error.sqlstate === "27000",
      );
      // Nor when the statement has inserted it again since.
      const again = new Records(new Budget(1_000_000));
      again.add(row(DELETE), 1, 4);
      again.add(entry(INSERT, "/a", "y"), 1, 3);
      assert.throws(() => again.add(row(kind), 1, 3), (error: EtcdFdwError) => error.sqlstate === "27000");
      again.add(entry(kind, "/a", "z"), 1, 5);
      // What sees no row is not concerned.
      records.add(entry(UPSERT, "/a", "y"), 1, 3);
      records.add(row(DELETE), 1, 5);
      records.add(entry(INSERT, "/a", "z"), 1, 3);
    }
  }
});
