import assert from "node:assert/strict";
import { EtcdFdwError } from "../../base/errors.ts";
import { begin, type Commit, type Effect, type Event, isOver, step } from "./commit.ts";

const refusal = new EtcdFdwError("42501", "no");
const loss = new EtcdFdwError("08007", "lost");
/** Steps of a Txn that leaves no room for another one. */
const LARGE = 40_000;
const LAST = ["COMMITTED", "REFUSED", "UNKNOWN"];

/** etcd and the backend, as far as the machine can tell: what happened to each Txn, and what was done by then. */
interface World {
  state: Commit;
  /** What the machine has been told to do and the world has yet to answer. */
  due: ("plan" | "explain")[];
  /** Forms that are left: the sizes of the Txns that check and write. */
  forms: { checks: number[]; writes: number[] }[];
  /** Whether each writing Txn that went out has taken effect; null while that is open. By id. */
  written: Map<number, boolean | null>;
  replies: number;
  failures: EtcdFdwError[];
  revoked: boolean;
  over: "no" | "cancelled" | "ended";
  /** A Txn of the present form was refused or lost. */
  trouble: boolean;
  trail: string[];
}

const isNothing = ({ written }: World) => [...written.values()].every((one) => one === false);

function perform(world: World, effects: Effect[]): void {
  for (const effect of effects) {
    const told = world.replies + world.failures.length;
    assert.ok(told === 0, `behind the outcome: ${effect.do}`);
    switch (effect.do) {
      case "plan":
      case "explain":
        world.due.push(effect.do);
        break;
      case "send":
        assert.equal(world.over, "no", "nothing is sent behind a cancel or the end");
        assert.ok(!world.trouble, "nothing more of a form is sent behind a refusal or a loss");
        break;
      case "progress":
        break;
      case "reply":
        world.replies++;
        // Those of a form that was refused are as if they had never been.
        assert.ok([...world.written.values()].every((one) => one !== null), "all of it was written");
        assert.equal([...world.written.values()].filter(Boolean).length, world.state.writes.length);
        break;
      case "fail":
        world.failures.push(effect.error);
        if (world.state.phase === "UNKNOWN") assert.ok(!isNothing(world), "something may have been written");
        break;
      case "revoke":
        world.revoked = true;
        assert.ok(isNothing(world), "nothing that was sent can have been written");
    }
  }
}

function told(world: World, event: Event, change: (next: World) => void = () => {}): World {
  const next: World = {
    ...world,
    ...{ due: [...world.due], forms: [...world.forms], written: new Map(world.written) },
    ...{
      failures: [...world.failures],
      trail: [...world.trail, `${event.type} ${"id" in event ? event.id : ""}`],
    },
  };
  change(next);
  next.trouble ||= event.type === "refused" || event.type === "lost";
  const { state, effects } = step(world.state, event);
  next.state = state;
  perform(next, effects);
  return next;
}

/** Everything that can happen next. */
function* successors(world: World): Generator<World> {
  const { state } = world;
  for (const due of new Set(world.due)) {
    const done = (next: World) => void next.due.splice(next.due.indexOf(due), 1);
    if (due === "plan") {
      const [form, ...rest] = world.forms;
      yield told(world, { type: "planned", form: form ?? null }, (next) => {
        done(next);
        next.forms = rest;
        next.trouble = false;
        // What the form before it wrote, nothing, is settled.
        assert.ok(isNothing(next));
      });
    } else yield told(world, { type: "explained", error: refusal }, done);
    yield told(world, { type: "failed", error: refusal }, done);
  }
  const making = state.sent.find(({ kind, out }) => kind === "write" && !out);
  for (const { id, kind, out } of state.sent) {
    if (kind === "write" && !out) {
      // One after the other: in which order they are made is of no account.
      if (id !== making?.id) continue;
      // Behind the outcome nothing goes out.
      if (!isOver(state)) yield told(world, { type: "out", id }, (next) => void next.written.set(id, null));
      // It could not be made.
      yield told(world, { type: "refused", id, error: refusal });
      continue;
    }
    const settle = (written: boolean) => (next: World) => {
      if (kind === "write") next.written.set(id, written);
    };
    yield told(world, { type: "answered", id, revision: 7n }, settle(true));
    yield told(world, { type: "refused", id, error: null }, settle(false));
    yield told(world, { type: "refused", id, error: refusal }, settle(false));
    // Whether a write that was lost took effect stays open.
    yield told(world, { type: "lost", id, error: loss });
  }
  if (world.over !== "no") return;
  for (const type of ["cancelled", "ended"] as const) {
    yield told(world, { type }, (next) => void (next.over = type));
  }
}

/** What must be so at the end. */
function checkOutcome(world: World): void {
  const { state, written, replies, failures, revoked } = world;
  assert.equal(replies + failures.length, 1, "exactly one outcome");
  assert.equal(replies === 1, state.phase === "COMMITTED");
  assert.equal(revoked, state.phase === "REFUSED");
  const [failure] = failures;
  if (state.phase === "UNKNOWN") assert.equal(failure.sqlstate, "08007");
  if (state.phase === "REFUSED") {
    assert.ok(isNothing(world));
    // That the outcome is unknown is said of nothing that is known; of a check it may be.
    if (written.size > 0 && state.checks.length === 0) assert.notEqual(failure.sqlstate, "08007");
  }
  if (!isNothing(world) && replies === 0) {
    assert.equal(failure.sqlstate, "08007", "a loss is not hidden behind a refusal");
  }
}

function explore(forms: World["forms"]): number {
  const seen = new Set<string>();
  const { state, effects } = begin();
  const first: World = {
    ...{
      state,
      forms,
      due: [],
      written: new Map(),
      replies: 0,
      failures: [],
      revoked: false,
      over: "no",
      trouble: false,
      trail: [],
    },
  };
  perform(first, effects);
  const stack = [first];
  while (stack.length > 0) {
    const world = stack.pop()!;
    const key = JSON.stringify(
      [
        world.state,
        world.due,
        world.forms,
        [...world.written],
        world.replies,
        world.failures.length,
        world.over,
      ],
      (_, value) => typeof value === "bigint" ? String(value) : value,
    );
    if (seen.has(key)) continue;
    seen.add(key);
    let stuck = true;
    try {
      if (isOver(world.state)) checkOutcome(world);
      for (const next of successors(world)) {
        stuck = false;
        if (isOver(world.state)) assert.deepEqual(next.state, world.state, "an outcome stays");
        stack.push(next);
      }
      assert.ok(!stuck || isOver(world.state), `nothing goes on in ${world.state.phase}`);
    } catch (error) {
      throw new Error(`after ${world.trail.join(" ")}`, { cause: error });
    }
  }
  return seen.size;
}

Deno.test("commit: whatever is answered, lost or cut off, there is one outcome, and it is true", () => {
  let states = 0;
  for (
    const forms of [
      [],
      [{ checks: [], writes: [1] }],
      [{ checks: [], writes: [1] }, { checks: [], writes: [1] }],
      [{ checks: [1], writes: [1, 1] }],
      [{ checks: [1, 1], writes: [1, 1, 1] }, { checks: [], writes: [1] }],
      [{ checks: [], writes: [1] }, { checks: [1], writes: [1, 1] }],
      // More than are on their way at a time.
      [{ checks: [1, 1, 1, 1, 1], writes: [1, 1] }],
      [{ checks: [], writes: [1, 1, 1, 1, 1] }],
      // Large ones, which go alone.
      [{ checks: [LARGE, LARGE], writes: [1, LARGE, 1, 1] }],
    ]
  ) states += explore(forms);
  assert.ok(states > 1000, `${states} states`);
});

Deno.test("commit: the phases, and what they are called for", () => {
  const run = (...events: Event[]) =>
    events.reduce((world, event) => {
      const { state, effects } = step(world.state, event);
      return { state, effects };
    }, begin());
  const planned: Event = { type: "planned", form: { checks: [], writes: [1, 1] } };
  const outOf = (id: number): Event => ({ type: "out", id });
  assert.equal(run(planned, { type: "cancelled" }).state.phase, "REFUSED");
  assert.equal(run(planned, outOf(2), { type: "cancelled" }).state.phase, "UNKNOWN");
  const answered: Event = { type: "answered", id: 2, revision: 5n };
  assert.equal(run(planned, outOf(2), answered, { type: "ended" }).state.phase, "UNKNOWN");
  const partly = run(planned, { type: "answered", id: 1, revision: 5n }, {
    type: "refused",
    id: 2,
    error: null,
  });
  assert.equal(partly.state.phase, "UNKNOWN");
  const [fail] = partly.effects.slice(-1);
  assert.ok(fail.do === "fail" && /1 of 2 Txns took effect/.test(fail.error.detail));
  const hidden = run(planned, { type: "refused", id: 1, error: refusal }, {
    type: "lost",
    id: 2,
    error: loss,
  });
  assert.deepEqual(hidden.effects, [{ do: "fail", error: loss }]);
  assert.deepEqual(run(planned, { type: "answered", id: 2, revision: 5n }).effects, [{ do: "progress" }]);
  const done = run(planned, { type: "answered", id: 2, revision: 5n }, {
    type: "answered",
    id: 1,
    revision: 4n,
  });
  assert.deepEqual(done.effects, [{ do: "progress" }, { do: "reply", revision: 5n, txns: 2 }]);
  assert.ok(LAST.includes(done.state.phase));
});

Deno.test("commit: few steps are on their way at a time, but always a Txn", () => {
  const sizes = [LARGE, LARGE, 100, 200, 9000, 9000, 300, 100, 100, 100, 100];
  const planned: Event = { type: "planned", form: { checks: sizes, writes: sizes } };
  const seen: number[][] = [];
  let { state } = step(begin().state, planned);
  while (!isOver(state)) {
    const [first] = state.sent;
    const underWay = state.sent.map(({ part }) => sizes[part]);
    if (state.phase === "WRITING") seen.push(underWay);
    assert.ok(underWay.length === 1 || underWay.reduce((sum, size) => sum + size, 0) <= 16_384);
    ({ state } = step(state, { type: "answered", id: first.id, revision: 1n }));
  }
  assert.equal(state.phase, "COMMITTED");
  assert.deepEqual(seen.slice(0, 4), [[LARGE], [LARGE], [100, 200, 9000], [200, 9000]]);
  assert.ok(seen.some((one) => one.length === 4), "four small ones");
});
