/** Of the whole product; deno.json says the same, which build/extension_test.ts checks; the C header is generated. */
export const VERSION = "0.2.0";
