// sorted-btree is a CommonJS module: Deno's default import is the module, esbuild's is the class.

import imported from "sorted-btree";

type BTreeClass = typeof imported.default;

export const BTree: BTreeClass = imported.default ?? (imported as unknown as BTreeClass);
