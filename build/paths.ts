// Where things are in the repository, and the one place that knows the version.

import config from "../deno.json" with { type: "json" };

export const ROOT = decodeURIComponent(new URL("..", import.meta.url).pathname).replace(/\/$/, "");
export const OUT = `${ROOT}/build/out`;
export const VERSION: string = config.version;
