import assert from "node:assert/strict";
import { archiveSite } from "./apt.ts";

Deno.test("archiveSite takes the release's own archive, not its updates or others", () => {
  const rows = [
    "http://a/other|stable|main|Packages|Someone",
    "http://a/security|bookworm-security|main|Packages|Debian",
    "http://a/debian|bookworm|main|Translations|Debian",
    "http://a/debian|bookworm|main|Packages|Debian",
  ];
  assert.equal(archiveSite(rows.join("\n")), "http://a/debian");
  assert.equal(archiveSite(""), null);
});
