// What a transaction has read where SERIALIZABLE demands that this still holds at the end: ranges, in which keys may come
// and change, and the keys in them, which may be deleted. The keys' part is theirs (records.ts).

import { decodeKeyRow, keyOf, type Page } from "../../etcd/ranges.ts";
import type { RangeRequest } from "../../etcd/messages.ts";
import { type KeyRange, successor, unite } from "../../etcd/keyrange.ts";
import type { Budget } from "../memory.ts";
import { keyRangeOf } from "./overlay.ts";
import type { Records } from "./records.ts";
import { STRIDE } from "./work.ts";

/** What a range takes beside its bounds. */
const RANGE_BYTES = 200;

const weight = (ranges: KeyRange[]) =>
  ranges.reduce((sum, { start, end }) => sum + RANGE_BYTES + start.length + (end?.length ?? 0), 0);

export class ReadSet {
  readonly #budget: Budget;
  /** They neither overlap nor touch. */
  ranges: KeyRange[] = [];
  /** That all of it was read at: the lowest, should there be several. */
  revision: bigint | null = null;
  #weight = 0;

  constructor(budget: Budget) {
    this.#budget = budget;
  }

  /** Notes a read and what etcd has answered. Throws EtcdFdwError 40001 when a key was seen otherwise before, or 53200. */
  *note(request: RangeRequest, page: Page, records: Records): Generator<undefined, void, unknown> {
    const { revision } = page;
    // A snapshot names its revision too, and what this channel records may begin with it. History is not recorded.
    if (this.revision === null || revision < this.revision) this.revision = revision;
    for (const [i, raw] of page.rows.entries()) {
      const { key, modRevision } = decodeKeyRow(raw);
      records.noteRead(key.slice(), modRevision);
      if (i % STRIDE === STRIDE - 1) yield;
    }
    if (request.rangeEnd !== null) return this.#add(cutOff(request, page));
    if (page.rows.length === 0) records.noteRead(request.key, 0n);
  }

  #add(range: KeyRange): void {
    const ranges = unite([...this.ranges, range]);
    const grown = weight(ranges) - this.#weight;
    if (grown > 0) this.#budget.take(grown);
    else this.#budget.give(-grown);
    this.#weight += grown;
    this.ranges = ranges;
  }

  clear(): void {
    this.#budget.give(this.#weight);
    this.ranges = [];
    this.#weight = 0;
  }
}

/** The part of the range that the page has shown. Which keys come first depends on all of them up to there. */
function cutOff(request: RangeRequest, { more, rows }: Page): KeyRange {
  const range = keyRangeOf(request);
  if (!more || rows.length === 0 || request.order !== undefined && request.order.target !== "key") {
    return range;
  }
  // A range's bounds are kept, the page is not.
  const last = keyOf(rows[rows.length - 1]).slice();
  return request.order?.descending ? { ...range, start: last } : { ...range, end: successor(last) };
}
