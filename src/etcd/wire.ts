// Protobuf's wire format for what is written by the thousand: sizes are known before, so that a message is one buffer.

/** Bytes of a varint. */
export function varintSize(value: number): number {
  let size = 1;
  for (let rest = value; rest >= 0x80; rest = Math.floor(rest / 0x80)) size++;
  return size;
}

export function wideSize(value: bigint): number {
  if (value >= 0n && value < 0x80n) return 1;
  if (value < 0n) return 10;
  return value <= BigInt(Number.MAX_SAFE_INTEGER)
    ? varintSize(Number(value))
    : Math.ceil(value.toString(2).length / 7);
}

/** Bytes of a length-delimited field whose tag takes one byte. */
export const fieldSize = (length: number) => 1 + varintSize(length) + length;

/** Writes fields into a buffer of the right size. */
export class Out {
  readonly bytes: Uint8Array;
  at = 0;

  constructor(size: number) {
    this.bytes = new Uint8Array(size);
  }

  varint(value: number): void {
    let rest = value;
    for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) this.bytes[this.at++] = rest & 0x7f | 0x80;
    this.bytes[this.at++] = rest;
  }

  /** A tag of one byte and a 64-bit number. */
  wide(tag: number, value: bigint): void {
    this.bytes[this.at++] = tag;
    if (value >= 0n && value <= BigInt(Number.MAX_SAFE_INTEGER)) return this.varint(Number(value));
    let rest = BigInt.asUintN(64, value);
    for (; rest >= 0x80n; rest >>= 7n) this.bytes[this.at++] = Number(rest & 0x7fn) | 0x80;
    this.bytes[this.at++] = Number(rest);
  }

  /** A tag of one byte and the length of what follows. */
  open(tag: number, length: number): void {
    this.bytes[this.at++] = tag;
    this.varint(length);
  }

  field(tag: number, bytes: Uint8Array): void {
    this.open(tag, bytes.length);
    this.raw(bytes);
  }

  raw(bytes: Uint8Array): void {
    this.bytes.set(bytes, this.at);
    this.at += bytes.length;
  }
}
