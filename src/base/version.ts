/** Of the whole product; deno.json says the same, which build/extension_test.ts checks. */
export const VERSION = "0.2.0";
