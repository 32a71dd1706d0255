// Further forms of the SQL functions: for keys and values that are bytea, and without the server. They are derived from the
// form that is written out in sql/, as plain SQL: a script that a superuser runs in somebody's schema should look nothing up.

/** Functions that have a form for bytea. */
export const BYTEA_FORMS = [
  "etcd_get",
  "etcd_get_row",
  "etcd_range",
  "etcd_count",
  "etcd_put",
  "etcd_put_returning",
  "etcd_delete",
  "etcd_delete_returning",
  "etcd_changes",
  "etcd_history",
  "etcd_watch",
  "etcd_cas",
  "etcd_create",
];

/** Parameters and columns that hold keys or values. */
const BYTES = /\b(key|value|prev_key|prev_value|range_end|expected|new|prefix) text\b/g;

const FORMS = ["bytea", "short", "short bytea"] as const;
type Form = typeof FORMS[number];

const COMMENTS: Record<Form, string> = {
  "bytea": "As the form for text, for keys and values that are not text.",
  "short": "As the form with a server, on the only one or on etcd_fdw.default_server.",
  "short bytea":
    "As the form with a server for keys and values that are not text, on the only one or on etcd_fdw.default_server.",
};

interface Declaration {
  name: string;
  args: string;
  /** From RETURNS to the end, without the semicolon. */
  rest: string;
  isPublic: boolean;
}

/** The functions of a script that take a server and are run by the backend's one function for them. */
function declarations(script: string): Declaration[] {
  const created = /^CREATE FUNCTION @extschema@\.(\w+)\(\s*(server text[^]*?)\)\s+(RETURNS [^;]*?);/gm;
  return [...script.matchAll(created)]
    .map(([, name, args, rest]) => ({ name, args, rest }))
    .filter(({ name, rest }) => !name.startsWith("etcd_fdw_") && rest.includes("AS 'MODULE_PATHNAME'"))
    .map((one) => ({
      ...one,
      isPublic: !script.includes(`REVOKE ALL ON FUNCTION @extschema@.${one.name}(`),
    }));
}

/** "key text, prefix boolean DEFAULT false" as COMMENT and REVOKE name it: "text, boolean". */
function typesOf(args: string): string {
  return args.split(",").map((arg) =>
    arg.trim().replace(/\s+DEFAULT\s.*$/s, "").replace(/^("[^"]+"|\S+)\s+/, "")
  ).join(", ");
}

function formOf({ name, args, rest, isPublic }: Declaration, form: Form): string {
  if (form.endsWith("bytea")) {
    args = args.replace(BYTES, "$1 bytea");
    rest = rest.replace(BYTES, "$1 bytea").replace(/^RETURNS text\b/, "RETURNS bytea")
      .replace("@extschema@.etcd_row", "@extschema@.etcd_row_bytea");
  }
  if (form.startsWith("short")) args = args.replace(/^server text(,\s*)?/, "");
  const target = `FUNCTION @extschema@.${name}(${args === "" ? "" : typesOf(args)})`;
  const revoked = isPublic ? "" : `REVOKE ALL ON ${target} FROM PUBLIC;\n`;
  return `CREATE FUNCTION @extschema@.${name}(${args})
  ${rest};
COMMENT ON ${target} IS '${COMMENTS[form]}';
${revoked}`;
}

/** The forms of all functions that the scripts declare. */
export function furtherForms(scripts: string[]): string {
  const made = scripts.flatMap(declarations).flatMap((declaration) =>
    FORMS.filter((form) => !form.endsWith("bytea") || BYTEA_FORMS.includes(declaration.name))
      .map((form) => formOf(declaration, form))
  );
  return `-- Further forms of the functions: for bytea, and without the server.\n\n${made.join("\n")}`;
}
