// A query as a tree, so that it can be written with literals or with parameters, and made smaller when it fails.

/** A value in a query: becomes a literal, or a parameter of this type. Null is SQL's NULL. */
export interface Value {
  type: "text" | "bytea" | "bigint" | "int";
  /** Text; hexadecimal for bytea; digits for numbers. */
  value: string | null;
}

export type Part = string | Value;
export type Condition =
  | { test: Part[] }
  | { and: Condition[] }
  | { or: Condition[] }
  | { not: Condition };

export interface Source {
  table: string;
  alias: string;
  /** How it is joined to those before it; the first has none. */
  join?: string;
  on?: Condition;
}

export interface Query {
  sources: Source[];
  where: Condition | null;
  /** What each row shows; the expressions of `order` come in front of these. */
  select: Part[][];
  distinct: boolean;
  group: Part[][];
  having: Part[] | null;
  order: { by: Part[]; how: string }[];
  /** Whether `order` leaves no ties. */
  total: boolean;
  limit: Part[] | null;
  offset: Part[] | null;
  settings: string[];
  /** Null: not prepared. */
  prepared: "force_generic_plan" | "force_custom_plan" | null;
}

/** An SQL literal that is the same whatever the session's settings. */
function literal({ type, value }: Value): string {
  if (value === null) return `NULL::${type}`;
  if (type === "text") return `E'${value.replaceAll("\\", "\\\\").replaceAll("'", "''")}'`;
  if (type === "bytea") return `'\\x${value}'::bytea`;
  return value.startsWith("-") ? `(${value})` : value;
}

/** Writes a query; with `params`, its values are put there and their places written. */
class Writer {
  constructor(private readonly params: Value[] | null) {}

  parts(parts: Part[]): string {
    return parts.map((part) => {
      if (typeof part === "string") return part;
      if (this.params === null) return literal(part);
      this.params.push(part);
      return `$${this.params.length}`;
    }).join("");
  }

  condition(condition: Condition): string {
    if ("test" in condition) return this.parts(condition.test);
    if ("not" in condition) return `NOT (${this.condition(condition.not)})`;
    const [members, word] = "and" in condition ? [condition.and, " AND "] : [condition.or, " OR "];
    if (members.length === 0) return word === " AND " ? "true" : "false";
    return members.map((member) => `(${this.condition(member)})`).join(word);
  }

  query(query: Query): string {
    const isLimited = query.limit !== null || query.offset !== null;
    // Which of equal rows a LIMIT keeps is nobody's business: then only what the order shows is compared.
    const shown = isLimited && !query.total ? [] : query.select;
    const columns = [...query.order.map(({ by }) => by), ...shown].map((column) => this.parts(column));
    const from = query.sources.map(({ table, alias, join, on }) =>
      `${join ? ` ${join} ` : ""}${table} ${alias}${on ? ` ON ${this.condition(on)}` : ""}`
    ).join("");
    const text = [
      `SELECT ${query.distinct ? "DISTINCT " : ""}${
        columns.length > 0 ? columns.join(", ") : "1"
      } FROM ${from}`,
      query.where ? `WHERE ${this.condition(query.where)}` : "",
      query.group.length > 0 ? `GROUP BY ${query.group.map((by) => this.parts(by)).join(", ")}` : "",
      query.having ? `HAVING ${this.parts(query.having)}` : "",
      // By number, so that DISTINCT sees the same expression twice.
      query.order.length > 0
        ? `ORDER BY ${query.order.map(({ how }, index) => `${index + 1}${how}`).join(", ")}`
        : "",
      query.limit ? `LIMIT ${this.parts(query.limit)}` : "",
      query.offset ? `OFFSET ${this.parts(query.offset)}` : "",
    ].filter(Boolean).join(" ");
    return isFolded(query) ? `SELECT count(*), sum(hashtextextended(x::text, 0)) FROM (${text}) x` : text;
  }
}

/** Joins can have millions of rows: then a sum over them is compared. */
export function isFolded(query: Query): boolean {
  return query.sources.length > 1 && query.order.length === 0;
}

/** One statement for each execution: several where a prepared statement is executed again with other values. */
export interface Script {
  setup: string[];
  executions: string[];
  teardown: string[];
}

/** The query as SQL; `other` makes further values for a prepared statement. */
export function script(query: Query, other: (value: Value) => Value): Script {
  const setup = query.settings.map((setting) => `SET ${setting}`);
  const reset = query.settings.length > 0 || query.prepared ? ["RESET ALL"] : [];
  if (query.prepared === null) {
    return { setup, executions: [new Writer(null).query(query)], teardown: reset };
  }
  const params: Value[] = [];
  const text = new Writer(params).query(query);
  const types = params.length > 0 ? ` (${params.map(({ type }) => type).join(", ")})` : "";
  const execute = (values: Value[]) =>
    `EXECUTE q${values.length > 0 ? `(${values.map((value) => literal(value)).join(", ")})` : ""}`;
  const first = execute(params);
  return {
    setup: [...setup, `SET plan_cache_mode = ${query.prepared}`, `PREPARE q${types} AS ${text}`],
    executions: params.length > 0 ? [first, execute(params.map(other)), first] : [first],
    teardown: ["DEALLOCATE q", ...reset],
  };
}

function smallerCondition(condition: Condition): (Condition | null)[] {
  if ("test" in condition) return [null, ...smallerLists(condition.test)];
  if ("not" in condition) {
    const inner = smallerCondition(condition.not).filter((one) => one !== null);
    return [null, condition.not, ...inner.map((not): Condition => ({ not }))];
  }
  const isAnd = "and" in condition;
  const members = isAnd ? condition.and : condition.or;
  const make = (list: Condition[]): Condition => isAnd ? { and: list } : { or: list };
  return [
    null,
    ...members,
    ...members.map((_, i) => make(members.filter((_, j) => j !== i))),
    ...members.flatMap((member, i) =>
      smallerCondition(member).filter((one) => one !== null).map((one) =>
        make(members.map((other, j) => j === i ? one : other))
      )
    ),
  ];
}

/** Lists of values, as IN has them, with one value less. */
function smallerLists(parts: Part[]): Condition[] {
  const result: Condition[] = [];
  for (let i = 0; i + 2 < parts.length; i++) {
    if (typeof parts[i] === "object" && parts[i + 1] === ", ") {
      result.push({ test: [...parts.slice(0, i), ...parts.slice(i + 2)] });
    }
  }
  return result;
}

/** Queries that are a little simpler than this one. */
export function smaller(query: Query): Query[] {
  const result: Query[] = [];
  const add = (change: Partial<Query>) => result.push({ ...query, ...change });
  if (query.prepared) add({ prepared: null });
  for (let i = 0; i < query.settings.length; i++) add({ settings: query.settings.filter((_, j) => j !== i) });
  const [last] = query.sources.slice(1).slice(-1);
  if (last !== undefined) add({ sources: query.sources.slice(0, -1) });
  if (query.offset) add({ offset: null });
  if (query.limit) add({ limit: null });
  if (query.having) add({ having: null });
  if (query.distinct) add({ distinct: false });
  for (let i = 0; i < query.order.length; i++) {
    add({ order: query.order.filter((_, j) => j !== i), total: false });
  }
  if (query.select.length > 1) {
    for (let i = 0; i < query.select.length; i++) add({ select: query.select.filter((_, j) => j !== i) });
  }
  if (query.where) { for (const where of smallerCondition(query.where)) add({ where }); }
  query.sources.forEach((source, index) => {
    if (!source.on) return;
    for (const on of smallerCondition(source.on)) {
      if (on === null) continue;
      add({ sources: query.sources.map((other, i) => i === index ? { ...other, on } : other) });
    }
  });
  return result;
}
