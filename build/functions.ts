// docs/functions.md, from the declarations and COMMENTs in sql/: what the reader finds there is what \df+ shows.
//
// `deno task docs` writes it; the gate compares.

import { BYTEA_FORMS } from "./forms.ts";
import { ROOT } from "./paths.ts";

/** The files, as sections of the page. */
const SECTIONS: [file: string, title: string][] = [
  ["30_kv.sql", "Keys and values"],
  ["40_txn.sql", "Txns"],
  ["50_lease.sql", "Leases, locks and elections"],
  ["90_follow.sql", "Subscriptions and mirrors"],
  ["60_cluster.sql", "The cluster and its upkeep"],
  ["70_auth.sql", "Users, roles and permissions of etcd"],
  ["80_monitor.sql", "Monitoring"],
  ["10_engine.sql", "The engine"],
];

const HEAD = `# Functions

Generated from the comments in \`sql/\` by \`deno task docs\`; psql shows the same with \`\\df+\`.

Functions act at once, as etcdctl does, whatever becomes of the transaction; foreign tables act like PostgreSQL. A function that
changes anything in etcd is refused in a read-only transaction and on a hot standby (25006): a lock, a leadership and a lease are
written there too. What they read is no part of the transaction either: it is not confirmed under SERIALIZABLE. What the session holds can be given back by \`etcd_unlock\`, \`etcd_resign\` and \`etcd_lease_release\`.

The first argument names the foreign server. It can be left out when the database has one server of etcd_fdw, or when
\`etcd_fdw.default_server\` names one: \`etcd_get('/a')\` is then \`etcd_get('etcd', '/a')\`. Where a function has optional arguments that
are intervals, name them in that form: \`etcd_lock('job', wait => '5 s')\`, since two strings are a server and a name.

Whoever calls a function needs USAGE on the server; the user mapping says as which etcd user. Functions marked *restricted* are for
superusers until EXECUTE is granted. Those marked *bytea* have a further form with bytea for keys and values.
`;

interface SqlFunction {
  name: string;
  args: string;
  returns: string;
  comment: string;
  restricted: boolean;
}

const compact = (text: string) => text.replace(/\s+/g, " ").replaceAll("@extschema@.", "").trim();

/** The functions that a script makes, in its order. Throws for one without a COMMENT. */
export function parseFunctions(script: string): SqlFunction[] {
  const functions: SqlFunction[] = [];
  const created = /^CREATE FUNCTION @extschema@\.(\w+)\(([^]*?)\)\s+RETURNS ([^]*?)\s+LANGUAGE/gm;
  for (const [, name, args, returns] of script.matchAll(created)) {
    const types = args.split(",").map((arg) =>
      compact(arg).replace(/ DEFAULT .*/, "").split(" ").slice(1).join(" ")
    ).join(", ");
    const target = `FUNCTION @extschema@.${name}(${types})`;
    const comment = script.split(`COMMENT ON ${target} IS`)[1]?.match(/^\s*'((?:[^']|'')*)'/)?.[1];
    const untyped = script.split(`COMMENT ON FUNCTION @extschema@.${name}(`)[1]?.match(
      /IS\s*'((?:[^']|'')*)'/,
    )?.[1];
    const text = comment ?? untyped;
    if (text === undefined) throw new Error(`${name}(${types}) has no COMMENT`);
    functions.push({
      ...{ name, args: compact(args), returns: compact(returns), comment: text.replaceAll("''", "'") },
      restricted: script.includes(`REVOKE ALL ON FUNCTION @extschema@.${name}(`),
    });
  }
  return functions;
}

/** The views of a script and their COMMENTs. */
export function parseViews(script: string): { name: string; comment: string }[] {
  return [...script.matchAll(/^COMMENT ON VIEW @extschema@\.(\w+) IS\s*'((?:[^']|'')*)'/gm)]
    .map(([, name, comment]) => ({ name, comment: comment.replaceAll("''", "'") }));
}

function entry({ name, args, returns, comment, restricted }: SqlFunction): string {
  const marks = [...(BYTEA_FORMS.includes(name) ? ["bytea"] : []), ...(restricted ? ["restricted"] : [])];
  const isShort = !name.startsWith("etcd_fdw_");
  const shown = isShort
    ? args.replace(/^server text(, )?/, (_, more) => more ? "[server text,] " : "[server text]")
    : args;
  const marked = marks.length === 0 ? "" : ` *${marks.join(", ")}*`;
  return `### ${name}${marked}\n\n\`\`\`\n${name}(${shown})\n  → ${
    returns.replace(/^SETOF /, "setof ").replace(/^TABLE/, "table ")
  }\n\`\`\`\n\n${comment}\n`;
}

/** The page. */
export function functionsPage(read: (file: string) => string): string {
  const sections = SECTIONS.map(([file, title]) => {
    const script = read(file);
    const shown = parseFunctions(script).filter(({ comment }) => !comment.includes("internal to etcd_fdw"));
    const views = parseViews(script).map(({ name, comment }) => `### ${name} *view*\n\n${comment}\n`);
    return [`## ${title}\n`, ...views, ...shown.map(entry)].join("\n");
  });
  return [HEAD, ...sections].join("\n");
}

const PAGE = `${ROOT}/docs/functions.md`;
export const readSql = (file: string) => Deno.readTextFileSync(`${ROOT}/sql/${file}`);

if (import.meta.main) await Deno.writeTextFile(PAGE, functionsPage(readSql));
