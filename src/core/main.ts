// Entry of the bundle that plv8 and the embedded engine load.
export { dispatch } from "./dispatch.ts";
