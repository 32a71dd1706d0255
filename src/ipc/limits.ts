// Sizes that more than one part must agree on. Bytes unless the name says otherwise.

/** The largest payload of one frame, either way. The backend holds at most two such pages at a time. */
export const MAX_FRAME_BYTES = 256 * 1024 * 1024;

/** The size that a scan's pages grow to. */
export const PAGE_BYTES = 8 * 1024 * 1024;

/** Keys of a scan's first page: few, so that the first row comes soon. */
export const FIRST_PAGE_KEYS = 1000;

/** A page may ask for so many times the keys of the page before it. */
export const PAGE_GROWTH = 16;

/** Operations that etcd takes in one Txn unless --max-txn-ops says otherwise. */
export const MAX_TXN_OPS = 128;

/** Bytes that etcd takes in one request unless --max-request-bytes says otherwise. */
export const MAX_REQUEST_BYTES = 1536 * 1024;

/** Keys of a page whose keys core looks at one by one: so many in some milliseconds. */
export const LISTING_KEYS = 512;
