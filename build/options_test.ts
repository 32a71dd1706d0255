// docs/options.md and the table of options in src/backend/server/option.c must say the same.

import assert from "node:assert/strict";
import { ROOT } from "./paths.ts";

interface Option {
  places: string;
  preset: string;
}

/** Every name in the C table, with the places where it may stand and its default. */
async function inSource(): Promise<Map<string, Option>> {
  const source = await Deno.readTextFile(`${ROOT}/src/backend/server/option.c`);
  const rows = source.matchAll(/^\t\{"(\w+)", "\w+", ([A-Z |]+), KIND_\w+, (?:"([^"]*)"|NULL)\},$/gm);
  const words: Record<string, string> = {
    WRAPPER: "wrapper",
    SERVER: "server",
    USER: "user mapping",
    TABLE: "table",
    COLUMN: "column",
  };
  return new Map(
    [...rows].map(([, name, places, preset]) => [
      name,
      { places: places.split(" | ").map((place) => words[place]).join(", "), preset: preset ?? "" },
    ]),
  );
}

async function inDocs(): Promise<Map<string, Option>> {
  const text = await Deno.readTextFile(`${ROOT}/docs/options.md`);
  const rows = text.matchAll(/^\| `(\w+)`(?: or `(\w+)`)? \| ([a-z ,]+) \| [^|]+ \| (?:`([^`]*)`)? ?\| /gm);
  return new Map(
    [...rows].flatMap(([, name, other, places, preset]) =>
      [name, other].filter((one) => one !== undefined)
        .map((one): [string, Option] => [one, { places, preset: preset ?? "" }])
    ),
  );
}

Deno.test("docs/options.md names every option, where it stands and its default", async () => {
  const [source, docs] = [await inSource(), await inDocs()];
  // The one spelling that may not stand where its other one does.
  docs.set("user", { ...docs.get("user")!, places: "user mapping" });
  assert.ok(source.size > 25, `${source.size} options`);
  assert.deepEqual(
    Object.fromEntries([...docs].sort()),
    Object.fromEntries([...source].sort()),
  );
});
