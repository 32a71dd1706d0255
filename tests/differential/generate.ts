// Random queries over the tables of world.ts.

import type { Random } from "./prng.ts";
import type { Condition, Part, Query, Source, Value } from "./query.ts";
import type { TableInfo, World } from "./world.ts";

/** Under which different keys do not compare equal. */
const DETERMINISTIC = ['COLLATE "C"', 'COLLATE "POSIX"', 'COLLATE "und-x-icu"'];
const COLLATIONS = [...DETERMINISTIC, "COLLATE ci"];
const COMPARISONS = ["=", "<>", "<", "<=", ">", ">="];
const PLANNER = [
  ...["hashjoin", "mergejoin", "nestloop", "material", "memoize", "sort", "hashagg", "incremental_sort"],
].map((name) => `enable_${name} = off`);
/** Settings under which text would mean something else, if a foreign table looked at them. */
export const HOSTILE = [
  "DateStyle = 'SQL, DMY'",
  "DateStyle = 'German'",
  "DateStyle = 'Postgres, MDY'",
  "IntervalStyle = 'sql_standard'",
  "IntervalStyle = 'postgres_verbose'",
  "extra_float_digits = -10",
  "bytea_output = 'escape'",
  "TimeZone = 'Asia/Kathmandu'",
];
const REVISIONS = ["create_revision", "mod_revision", "version", "lease"];

export class Generator {
  readonly #random: Random;
  readonly #world: World;
  #aliases = 0;

  constructor(random: Random, world: World) {
    this.#random = random;
    this.#world = world;
  }

  #table(): TableInfo {
    const weights: Record<string, number> = { c: 4, s: 3, u: 2, d: 1, b: 3, p: 2, j: 1 };
    return this.#random.weighted(this.#world.tables.map((table) => [weights[table.name], table] as const));
  }

  /** A key of the table, or something near one. */
  #keyText(table: TableInfo): string {
    const random = this.#random;
    const key = random.pick(table.keys);
    // Hexadecimal is cut between bytes.
    const step = table.keyType === "bytea" ? 2 : 1;
    const points = step === 2 ? key.match(/../g) ?? [] : [...key];
    const some = () =>
      step === 2 ? random.pick(["00", "ff", "61", "25"]) : random.pick(["a", "\x01", "é", "%", "~", "/"]);
    return random.weighted<() => string>([
      [5, () => key],
      [2, () => points.slice(0, random.below(points.length + 1)).join("")],
      [1, () => key + some()],
      [1, () => [...points.slice(0, -1), some()].join("")],
      [1, () => step === 2 ? key : random.chance(0.5) ? key.toUpperCase() : key.toLowerCase()],
      [0.3, () => ""],
      [0.5, () => some()],
    ])();
  }

  #key(table: TableInfo): Value {
    if (this.#random.chance(0.03)) return { type: table.keyType!, value: null };
    return { type: table.keyType!, value: this.#keyText(table) };
  }

  #number(): Value {
    const random = this.#random;
    const value = random.weighted<() => string | null>([
      [6, () => String(random.between(1, this.#world.revision))],
      [2, () => String(random.between(-1, 3))],
      [0.3, () => random.pick(["9223372036854775807", "-9223372036854775807", "2147483648"])],
      [0.2, () => null],
    ])();
    return { type: "bigint", value };
  }

  /** Another value of the same kind, for a prepared statement's next execution. */
  other(value: Value): Value {
    const random = this.#random;
    if (random.chance(0.05)) return { ...value, value: null };
    if (value.type === "bigint") return this.#number();
    if (value.type === "int") return { ...value, value: String(random.between(0, 5)) };
    const table = random.pick(this.#world.tables.filter((one) => one.keyType === value.type));
    return { ...value, value: this.#keyText(table) };
  }

  /** A value, sometimes as an expression that is only known when the query runs. */
  #operand(value: Value): Part[] {
    const random = this.#random;
    if (value.value === null || random.chance(0.85)) return [value];
    if (value.type === "bigint") {
      return random.pick<Part[]>([["(", value, " + 0)"], ["(SELECT ", value, ")"], ["abs(", value, ")"]]);
    }
    if (value.type === "bytea") {
      return random.pick<Part[]>([["(", value, " || ''::bytea)"], ["(SELECT ", value, ")"]]);
    }
    return random.pick<Part[]>([
      ["(", value, " || '')"],
      ["(SELECT ", value, ")"],
      ["concat(", value, ")"],
      ["(", value, ")::varchar"],
      ["lower(", value, ")"],
    ]);
  }

  #collate(table: TableInfo, choice = COLLATIONS): string {
    if (table.keyType === "bytea" || !this.#random.chance(0.25)) return "";
    return " " + this.#random.pick(choice);
  }

  #pattern(table: TableInfo): Part[] {
    const random = this.#random;
    const escape = random.weighted([[8, "\\"], [1, "!"], [1, ""]] as const);
    const text = this.#keyText(table);
    const step = table.keyType === "bytea" ? 2 : 1;
    const points = step === 2 ? text.match(/../g) ?? [] : [...text];
    const encode = (ch: string) => step === 2 ? ch.charCodeAt(0).toString(16).padStart(2, "0") : ch;
    const special = ["%", "_", escape].filter(Boolean).map(encode);
    const quoted = points.slice(0, random.below(points.length + 1)).map((ch) => {
      if (random.chance(0.03)) return encode("_");
      // Where nothing is escaped, wildcards in keys are wildcards.
      return escape !== "" && special.includes(ch) && random.chance(0.9) ? encode(escape) + ch : ch;
    });
    const tail = random.weighted([[6, "%"], [2, ""], [1, "%%"], [1, "%a%"], [1, "_%"], [1, "_"]] as const);
    const value = (random.chance(0.05) ? encode("%") : "") + quoted.join("") + [...tail].map(encode).join("");
    const clause = escape === "\\"
      ? ""
      : step === 2
      ? ` ESCAPE '\\x${escape && encode(escape)}'::bytea`
      : ` ESCAPE '${escape}'`;
    return [...this.#operand({ type: table.keyType!, value }), clause];
  }

  #list(table: TableInfo, length: number): Part[] {
    return this.#random.list(length, () => this.#key(table)).flatMap((value, i): Part[] =>
      i === 0 ? [value] : [", ", value]
    );
  }

  /** A condition on the key. */
  #keyTest(table: TableInfo, alias: string): Part[] {
    const random = this.#random;
    const column = `${alias}.key${this.#collate(table)}`;
    const value = () => this.#operand(this.#key(table));
    const op = () => random.weighted([[4, "="], ...COMPARISONS.slice(1).map((one) => [1, one] as const)]);
    const size = () =>
      random.weighted([[6, random.between(1, 5)], [1, random.between(6, 40)], [
        0.4,
        random.between(100, 180),
      ]]);
    return random.weighted<() => Part[]>([
      [8, () => [column, ` ${op()} `, ...value(), this.#collate(table)]],
      [3, () => [...value(), ` ${op()} `, column]],
      [
        3,
        () => [
          column,
          random.chance(0.1) ? " NOT" : "",
          random.chance(0.2) ? " BETWEEN SYMMETRIC " : " BETWEEN ",
          ...value(),
          " AND ",
          ...value(),
        ],
      ],
      [3, () => [column, random.chance(0.15) ? " NOT IN (" : " IN (", ...this.#list(table, size()), ")"]],
      [
        2,
        () => [
          column,
          ` ${random.weighted([[5, "="], [1, "<"], [1, ">="], [1, "<>"]])} ${
            random.chance(0.85) ? "ANY" : "ALL"
          } (ARRAY[`,
          ...this.#list(table, size()),
          `]::${table.keyType}[])`,
        ],
      ],
      [5, () => [column, random.chance(0.1) ? " NOT LIKE " : " LIKE ", ...this.#pattern(table)]],
      [
        table.keyType === "text" ? 3 : 0,
        () =>
          random.chance(0.7) ? [column, " ^@ ", ...value()] : [`starts_with(${column}, `, ...value(), ")"],
      ],
      [
        table.keyType === "text" ? 0.5 : 0,
        () => [column, random.chance(0.5) ? " ILIKE " : " NOT ILIKE ", {
          type: "text",
          value: this.#keyText(table).slice(0, 3).replaceAll("\\", "") + "%",
        }],
      ],
      [1, () => [column, random.chance(0.3) ? " IS NULL" : " IS NOT NULL"]],
      [0.5, () => [column, random.chance(0.5) ? " IS DISTINCT FROM " : " IS NOT DISTINCT FROM ", ...value()]],
      [0.5, () => [`length(${column}) > `, { type: "int", value: String(random.between(0, 12)) }]],
    ])();
  }

  #otherTest(table: TableInfo, alias: string): Part[] {
    const random = this.#random;
    const comparison = () => random.pick(COMPARISONS);
    return random.weighted<() => Part[]>([
      [6, () => {
        const column = `${alias}.${
          random.weighted([[4, "mod_revision"], [3, "create_revision"], [2, "version"], [1, "lease"]])
        }`;
        const value = this.#operand(this.#number());
        return random.chance(0.7)
          ? [column, ` ${comparison()} `, ...value]
          : [...value, ` ${comparison()} `, column];
      }],
      [1, () => [`${alias}.mod_revision = ${alias}.create_revision`]],
      [
        0.5,
        () => [
          `${alias}.mod_revision ${comparison()} ${
            random.pick(["12.5", "40::int2", "50::int4", "'60'", "70.0::float8"])
          }`,
        ],
      ],
      [
        2,
        () => [`${alias}.value ${comparison()} `, {
          type: table.valueType!,
          value: table.valueType === "text"
            ? random.pick(["same", "dup", "1", "", "é"])
            : random.pick(["", "31", "ff"]),
        }],
      ],
      [1, () => [`${alias}.value IS ${random.chance(0.5) ? "NOT " : ""}NULL`]],
      [table.texts.length > 0 ? 8 : 0, () => {
        const column = `${alias}.${random.pick(table.texts)}`;
        const word = (): Value => ({
          type: "text",
          value: random.pick(["a", "b", "A", "ab", "é", "%", "x_y", "a-b", "", "a/b", null]),
        });
        return random.chance(0.75)
          ? [column, ` ${random.chance(0.8) ? "=" : comparison()} `, word()]
          : [column, " IN (", word(), ", ", word(), ")"];
      }],
      [
        table.numbers.length > 0 ? 5 : 0,
        () => [`${alias}.${random.pick(table.numbers)} ${comparison()} `, {
          type: "int",
          value: random.pick(["0", "1", "42", null]),
        }],
      ],
      [Object.keys(table.typed).length > 0 ? 6 : 0, () => {
        const [name, values] = random.pick(Object.entries(table.typed));
        return [`${alias}.${name} ${comparison()} ${random.pick(values)}`];
      }],
      [0.3, () => [random.pick(["true", "false", "NULL::boolean", "random() >= 0"])]],
    ])();
  }

  /** A condition with a query in it. */
  #subqueryTest(table: TableInfo, alias: string): Part[] {
    const random = this.#random;
    const few = table.keyType === "bytea" ? "kb" : "k";
    const twin = random.pick(this.#world.tables.filter((other) => other.keyType === table.keyType));
    const inner = `a${++this.#aliases}`;
    return random.weighted<() => Part[]>([
      [
        2,
        () => [`${alias}.key ${random.chance(0.2) ? "NOT " : ""}IN (SELECT ${few} FROM few WHERE n < `, {
          type: "int",
          value: String(random.between(0, 60)),
        }, ")"],
      ],
      [
        2,
        () => [`${alias}.key ${random.pick(["=", "<", ">="])} (SELECT ${few} FROM few WHERE n = `, {
          type: "int",
          value: String(random.between(1, 60)),
        }, ")"],
      ],
      [
        2,
        () => [
          `${
            random.chance(0.3) ? "NOT " : ""
          }EXISTS (SELECT FROM ${twin.name} ${inner} WHERE ${inner}.key = ${alias}.key AND `,
          ...this.#test(twin, inner, false),
          ")",
        ],
      ],
      [
        1,
        () => [
          `${alias}.key ${random.pick(["=", ">", "<"])} (SELECT ${random.pick(["min", "max"])}(${inner}.key${
            table.keyType === "bytea" ? "::text)::bytea" : ")"
          } FROM ${twin.name} ${inner} WHERE `,
          ...this.#test(twin, inner, false),
          ")",
        ],
      ],
    ])();
  }

  #test(table: TableInfo, alias: string, deep: boolean): Part[] {
    const random = this.#random;
    return random.weighted<() => Part[]>([
      [6, () => this.#keyTest(table, alias)],
      [3, () => this.#otherTest(table, alias)],
      [deep ? 0.6 : 0, () => this.#subqueryTest(table, alias)],
    ])();
  }

  #condition(sources: [TableInfo, string][], depth: number): Condition {
    const random = this.#random;
    if (depth === 0 || random.chance(0.45)) {
      const [table, alias] = random.pick(sources);
      return { test: this.#test(table, alias, true) };
    }
    const members = () => random.list(random.between(2, 3), () => this.#condition(sources, depth - 1));
    return random.weighted<() => Condition>([
      [4, () => ({ and: members() })],
      [4, () => ({ or: members() })],
      [1, () => ({ not: this.#condition(sources, depth - 1) })],
    ])();
  }

  #joined(table: TableInfo, alias: string, before: [TableInfo, string][], hasFew: boolean): Condition {
    const random = this.#random;
    const [, other] = random.pick(before.filter(([one]) => one.keyType === table.keyType).concat(before)) ??
      before[0];
    const partner = hasFew && random.chance(0.6)
      ? `few.${table.keyType === "bytea" ? "kb" : "k"}`
      : before.find(([one, name]) => name === other && one.keyType === table.keyType)
      ? `${other}.key`
      : null;
    const sameCollation = table.keyType === "bytea" || partner === null || partner.startsWith("few") ||
      table.name !== "u" && before.find(([, name]) => name === other)![0].name !== "u";
    // Two collations of columns are an error, most of the time.
    const collated = sameCollation || random.chance(0.1)
      ? ""
      : random.pick([' COLLATE "C"', ' COLLATE "und-x-icu"']);
    const link: Part[] = partner === null
      ? [`${alias}.version = ${other}.version AND `, ...this.#keyTest(table, alias)]
      : random.weighted<() => Part[]>([
        [
          6,
          () => [
            random.chance(0.5)
              ? `${alias}.key = ${partner}${collated}`
              : `${partner}${collated} = ${alias}.key`,
          ],
        ],
        [table.keyType === "text" ? 1 : 0, () => [`${alias}.key ^@ ${partner}`]],
        [0.6, () => [`${alias}.key > ${partner} AND ${alias}.key < `, this.#key(table)]],
        [0.6, () => [`${alias}.key IN (${partner}, `, this.#key(table), ")"]],
        [0.6, () => [`(${alias}.key = ${partner} OR ${alias}.key = `, this.#key(table), ")"]],
        [
          0.4,
          () => [`${alias}.mod_revision = ${partner.startsWith("few") ? "few.n" : `${other}.mod_revision`}`],
        ],
      ])();
    return random.chance(0.3)
      ? { and: [{ test: link }, { test: this.#test(table, alias, false) }] }
      : { test: link };
  }

  #sources(): { sources: Source[]; tables: [TableInfo, string][] } {
    const random = this.#random;
    const first = this.#table();
    const sources: Source[] = [{ table: first.name, alias: "t" }];
    const tables: [TableInfo, string][] = [[first, "t"]];
    const join = () =>
      random.weighted([[5, "JOIN"], [3, "LEFT JOIN"], [0.5, "FULL JOIN"], [0.5, "RIGHT JOIN"]] as const);
    const count = random.weighted([[7, 0], [2.5, 1], [0.6, 2]] as const);
    let hasFew = false;
    for (let i = 0; i < count; i++) {
      if (!hasFew && random.chance(0.5)) {
        // The outer side comes first, as a person would write it.
        sources.unshift({ table: "few", alias: "few" });
        const follower = sources[1];
        follower.join = random.chance(0.6) ? "JOIN" : "LEFT JOIN";
        follower.on = this.#joined(first, "t", [[first, "t"]], true);
        hasFew = true;
        continue;
      }
      const same = this.#world.tables.filter((one) => one.keyType === first.keyType);
      const table = random.chance(0.85) ? random.pick(same) : this.#table();
      const alias = `t${i + 2}`;
      const kind = join();
      const on: Condition = kind === "FULL JOIN"
        ? {
          test: [table.keyType === first.keyType ? `${alias}.key = t.key` : `${alias}.version = t.version`],
        }
        : this.#joined(table, alias, tables, hasFew);
      sources.push({ table: table.name, alias, join: kind, on });
      tables.push([table, alias]);
    }
    return { sources, tables };
  }

  #columns([table, alias]: [TableInfo, string]): string[] {
    const { texts, numbers, typed } = table;
    return ["key", "value", ...texts, ...numbers, ...Object.keys(typed), ...REVISIONS].map((name) =>
      `${alias}.${name}`
    );
  }

  #order(tables: [TableInfo, string][]): Pick<Query, "order" | "total"> {
    const random = this.#random;
    const count = random.weighted([[5, 0], [6, 1], [2, 2], [1, 3]] as const);
    const order = random.list(count, () => {
      const [table, alias] = random.pick(tables);
      const how = random.weighted(
        [[5, ""], [4, " DESC"], [0.5, " NULLS FIRST"], [0.5, " DESC NULLS LAST"]] as const,
      );
      const column = random.chance(0.6) ? `${alias}.key` : random.pick(this.#columns([table, alias]));
      const collation = column === `${alias}.key` ? this.#collate(table, DETERMINISTIC) : "";
      return { by: [`${column}${collation}`], how };
    });
    const total = tables.length === 1 && order.some(({ by }) => (by[0] as string).startsWith("t.key"));
    return { order, total };
  }

  #count(highest: number): Part[] {
    const random = this.#random;
    const value: Value = {
      type: "bigint",
      value: random.chance(0.04) ? null : String(random.between(0, highest)),
    };
    return random.chance(0.9) ? [value] : ["(SELECT ", value, ")"];
  }

  #aggregates(table: TableInfo, alias: string): string {
    const random = this.#random;
    const key = `${alias}.key`;
    const orderable = table.keyType === "text"
      ? [`min(${key})`, `max(${key})`, `max(${key}${this.#collate(table, DETERMINISTIC)})`]
      : [];
    return random.weighted<string>([
      [5, "count(*)"],
      [2, `count(${key})`],
      ...orderable.map((one) => [3, one] as const),
      [1, `count(${alias}.value)`],
      [1, `sum(${alias}.version)`],
      [0.5, `count(DISTINCT ${alias}.value)`],
      [0.5, `count(*) FILTER (WHERE ${alias}.version > 1)`],
      [0.5, `bool_and(${key} IS NOT NULL)`],
      [0.5, `max(${alias}.mod_revision)`],
      [0.5, "count(1)"],
    ]);
  }

  /** What a subquery shows whose LIMIT, OFFSET or condition comes from the row around it. */
  #correlated([outer, outerAlias]: [TableInfo, string], hasFew: boolean): Part[] {
    const random = this.#random;
    const table = random.pick(this.#world.tables.filter((one) => one.keyType === outer.keyType));
    const alias = `c${++this.#aliases}`;
    const number = () =>
      random.pick([
        hasFew ? `abs(few.n) % ${random.between(2, 9)}` : `${outerAlias}.version % 4`,
        `${outerAlias}.version`,
        `length(${outerAlias}.key)`,
        `nullif(length(${outerAlias}.value) % 5, 3)`,
      ]);
    const where: Part[] = random.chance(0.6) ? [" WHERE ", ...this.#test(table, alias, false)] : [];
    const bounds = random.pick([
      () => ` LIMIT ${number()}`,
      () => ` OFFSET ${number()} LIMIT 50`,
      () => ` LIMIT ${number()} OFFSET ${number()}`,
    ])();
    const rows: Part[] = [
      `SELECT ${alias}.key FROM ${table.name} ${alias}`,
      ...where,
      ` ORDER BY ${alias}.key${random.chance(0.3) ? " DESC" : ""}${bounds}`,
    ];
    return random.pick<Part[]>([
      ["ARRAY(", ...rows, ")"],
      [`(SELECT count(*) || coalesce(min(${alias}.key)::text, '') FROM (`, ...rows, `) ${alias})`],
      [
        `(SELECT string_agg(z.key::text, ',' ORDER BY y.n) FROM (VALUES (1), (3), (2)) y(n), LATERAL (`,
        ...rows.slice(0, -1),
        ` ORDER BY ${alias}.key LIMIT y.n OFFSET ${number()}) z)`,
      ],
    ]);
  }

  query(): Query {
    const random = this.#random;
    const { sources, tables } = this.#sources();
    const where = random.chance(0.88)
      ? this.#condition(tables, random.weighted([[3, 0], [4, 1], [2, 2], [1, 3]] as const))
      : null;
    const query: Query = {
      ...{ sources, where, select: [], distinct: false, group: [], having: null, order: [], total: false },
      ...{ limit: null, offset: null, settings: [], prepared: null },
    };
    if (random.chance(0.2)) query.settings = random.list(random.between(1, 3), () => random.pick(PLANNER));
    if (random.chance(0.15)) query.settings.push(random.pick(HOSTILE), random.pick(HOSTILE));
    if (random.chance(0.35)) query.prepared = random.chance(0.6) ? "force_generic_plan" : "force_custom_plan";
    if (random.chance(0.22)) return this.#aggregated(query, tables);
    const columns = tables.flatMap((one) => this.#columns(one)).concat(
      sources.some((one) => one.alias === "few") ? ["few.n"] : [],
    );
    query.select = random.chance(0.3)
      ? columns.map((column) => [column])
      : random.list(random.between(1, 3), () => [random.pick(columns)]);
    if (random.chance(0.05)) query.select.push([random.pick(tables)[1]]);
    const [one] = tables;
    // For each row of a table a query of its own: not for those of a join.
    if (random.chance(0.12) && (sources.length === 1 || sources[0].alias === "few")) {
      query.select.push(this.#correlated(one, sources[0].alias === "few"));
    }
    query.distinct = random.chance(0.06);
    Object.assign(query, this.#order(tables));
    if (query.distinct || sources.length > 1) query.total = false;
    // What is sorted is not folded, so that a join needs a limit.
    if (random.chance(0.35) || sources.length > 1 && query.order.length > 0) {
      query.limit = this.#count(random.pick([1, 5, 20, 400]));
    }
    if (random.chance(0.2)) query.offset = this.#count(random.pick([2, 30, 400]));
    return query;
  }

  #aggregated(query: Query, tables: [TableInfo, string][]): Query {
    const random = this.#random;
    query.select = random.list(random.between(1, 3), () => {
      const [table, alias] = random.pick(tables);
      return [this.#aggregates(table, alias)];
    });
    if (random.chance(0.25)) {
      query.group = [[`t.${random.pick(["version", "value", "lease", "key"])}`]];
      query.select.push(query.group[0]);
    }
    if (random.chance(0.1)) {
      query.having = ["count(*) > ", { type: "int", value: String(random.between(0, 3)) }];
    }
    // With a LIMIT, only how many rows there are is compared.
    if (random.chance(0.1)) query.limit = this.#count(3);
    if (query.limit !== null && query.group.length === 0) query.total = true;
    return query;
  }
}
