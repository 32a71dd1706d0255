// A log of small records in few large buffers: a transaction's rows cost their bytes, not an object each. Records are
// appended and, when a subtransaction is rolled back, cut off from the end; buffers before that can be given back whole.

import type { Budget } from "../memory.ts";

/** The first buffer of a transaction, which mostly stays small. */
const FIRST_BYTES = 512;
const CHUNK_BYTES = 256 * 1024;
/** Records begin at multiples of so many bytes; a place is a number of these, so that it is a small integer. */
const UNIT = 8;
const CHUNK_UNITS = CHUNK_BYTES / UNIT;

export interface Chunk {
  bytes: Uint8Array;
  view: DataView;
}

function chunkOf(size: number): Chunk {
  const bytes = new Uint8Array(size);
  return { bytes, view: new DataView(bytes.buffer) };
}

/** In place of a buffer that was given back. */
const NO_CHUNK = chunkOf(0);

/** The first buffer of one transaction, kept for the next one of the same channel: a new one costs as much as a small commit. */
export class Spare {
  #chunk: Chunk | null = null;

  take(): Chunk {
    const chunk = this.#chunk ?? chunkOf(FIRST_BYTES);
    this.#chunk = null;
    return chunk;
  }

  give(chunk: Chunk): void {
    if (chunk.bytes.length === FIRST_BYTES) this.#chunk = chunk;
  }
}

export class Arena {
  readonly #budget: Budget;
  readonly #spare: Spare;
  #chunks: Chunk[] = [];
  /** Where the next record begins in the last chunk, in bytes. */
  #end = 0;

  constructor(budget: Budget, spare: Spare) {
    this.#budget = budget;
    this.#spare = spare;
  }

  /** Where the next record would begin, or a place before that. */
  get top(): number {
    // A chunk of one large record has no room for another.
    const end = Math.min(this.#end, CHUNK_BYTES);
    return this.#chunks.length === 0 ? 0 : (this.#chunks.length - 1) * CHUNK_UNITS + end / UNIT;
  }

  /** Room for a record; its place. Throws EtcdFdwError 53200. Nothing but its bytes may be kept of a chunk meanwhile. */
  allocate(size: number): number {
    const room = Math.ceil(size / UNIT) * UNIT;
    const last = this.#chunks.at(-1);
    if (last === undefined || this.#end + room > last.bytes.length || this.#end >= CHUNK_BYTES) {
      this.#grow(room, last);
    }
    const place = this.top;
    this.#end += room;
    return place;
  }

  #grow(room: number, last: Chunk | undefined): void {
    const single = this.#chunks.length === 1 && last!.bytes.length < CHUNK_BYTES;
    if (last === undefined || single && this.#end + room <= CHUNK_BYTES) {
      let size = last === undefined ? FIRST_BYTES : last.bytes.length * 2;
      while (size < this.#end + room && size < CHUNK_BYTES) size *= 2;
      if (size < this.#end + room) size = this.#end + room;
      this.#budget.take(size - (last?.bytes.length ?? 0));
      const chunk = size === FIRST_BYTES ? this.#spare.take() : chunkOf(size);
      if (last !== undefined) chunk.bytes.set(last.bytes);
      this.#chunks[0] = chunk;
      return;
    }
    const size = Math.max(room, CHUNK_BYTES);
    this.#budget.take(size);
    this.#chunks.push(chunkOf(size));
    this.#end = 0;
  }

  view(place: number): DataView {
    return this.#chunks[Math.floor(place / CHUNK_UNITS)].view;
  }

  bytes(place: number): Uint8Array {
    return this.#chunks[Math.floor(place / CHUNK_UNITS)].bytes;
  }

  /** Where in its chunk the record begins. */
  offset(place: number): number {
    return place % CHUNK_UNITS * UNIT;
  }

  /** Gives back the buffers that lie wholly between these places, where no record is needed any more. */
  free(from: number, to: number): void {
    for (let i = Math.ceil(from / CHUNK_UNITS); (i + 1) * CHUNK_UNITS <= to; i++) {
      this.#budget.give(this.#chunks[i].bytes.length);
      this.#chunks[i] = NO_CHUNK;
    }
  }

  /** Drops all records from this place on. */
  truncate(place: number): void {
    const kept = place === 0 ? 0 : Math.floor(place / CHUNK_UNITS) + 1;
    for (const chunk of this.#chunks.splice(kept)) {
      this.#budget.give(chunk.bytes.length);
      this.#spare.give(chunk);
    }
    this.#end = kept > this.#chunks.length ? CHUNK_BYTES : place % CHUNK_UNITS * UNIT;
  }
}
