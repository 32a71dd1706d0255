// Bytes and text without the host's help: plv8 and QuickJS have no TextEncoder, TextDecoder or atob.

import { EtcdFdwError } from "./errors.ts";

/** What errors show of a key; the backend shows as much (base/bytes.c). */
const PRINTED_BYTES = 256;
const HEX = Array.from({ length: 256 }, (_, byte) => (byte + 256).toString(16).slice(1));

/** Lower-case hexadecimal, two digits a byte. */
export function toHex(bytes: Uint8Array): string {
  // Joined, and not added up: V8 would keep an object for each byte as long as the string lives.
  const digits = new Array<string>(bytes.length);
  for (let i = 0; i < bytes.length; i++) digits[i] = HEX[bytes[i]];
  return digits.join("");
}

/** Inverse of {@linkcode toHex}. Throws EtcdFdwError 22023 on an odd length or another character. */
export function fromHex(hex: string): Uint8Array {
  if (hex.length % 2 !== 0 || /[^0-9a-f]/i.test(hex)) {
    throw new EtcdFdwError("22023", "malformed hexadecimal string");
  }
  const out = new Uint8Array(hex.length / 2);
  for (let i = 0; i < out.length; i++) out[i] = parseInt(hex.substr(2 * i, 2), 16);
  return out;
}

/** UTF-8 of a string; a lone surrogate becomes U+FFFD, as TextEncoder does it. */
export function encodeUtf8(text: string): Uint8Array<ArrayBuffer> {
  const out: number[] = [];
  for (const ch of text) {
    let cp = ch.codePointAt(0)!;
    if (cp >= 0xd800 && cp <= 0xdfff) cp = 0xfffd;
    if (cp < 0x80) out.push(cp);
    else if (cp < 0x800) out.push(0xc0 | cp >> 6, 0x80 | cp & 63);
    else if (cp < 0x10000) out.push(0xe0 | cp >> 12, 0x80 | cp >> 6 & 63, 0x80 | cp & 63);
    else out.push(0xf0 | cp >> 18, 0x80 | cp >> 12 & 63, 0x80 | cp >> 6 & 63, 0x80 | cp & 63);
  }
  return Uint8Array.from(out);
}

/** Length of the UTF-8 sequence that starts at `i`, or 0 when what stands there is not valid UTF-8. */
function sequenceLength(b: Uint8Array, i: number): number {
  const first = b[i];
  if (first < 0x80) return 1;
  const length = first >= 0xc2 && first <= 0xdf
    ? 2
    : first >> 4 === 0xe
    ? 3
    : first >= 0xf0 && first <= 0xf4
    ? 4
    : 0;
  if (length === 0 || i + length > b.length) return 0;
  for (let k = 1; k < length; k++) if (b[i + k] >> 6 !== 2) return 0;
  // Overlong forms, surrogates and what lies above U+10FFFF.
  if (first === 0xe0 && b[i + 1] < 0xa0) return 0;
  if (first === 0xed && b[i + 1] > 0x9f) return 0;
  if (first === 0xf0 && b[i + 1] < 0x90) return 0;
  if (first === 0xf4 && b[i + 1] > 0x8f) return 0;
  return length;
}

function codePoint(b: Uint8Array, i: number, length: number): number {
  let cp = length === 1 ? b[i] : b[i] & (0x7f >> length);
  for (let k = 1; k < length; k++) cp = cp << 6 | b[i + k] & 63;
  return cp;
}

/** Text of UTF-8 bytes; each byte that is not part of valid UTF-8 becomes U+FFFD. */
export function decodeUtf8(bytes: Uint8Array): string {
  let out = "";
  for (let i = 0; i < bytes.length;) {
    const length = sequenceLength(bytes, i);
    out += length === 0 ? "\ufffd" : String.fromCodePoint(codePoint(bytes, i, length));
    i += length || 1;
  }
  return out;
}

/** A key as errors name it: cut where it is long. */
export function printableKey(key: Uint8Array): string {
  return key.length > PRINTED_BYTES ? printable(key.subarray(0, PRINTED_BYTES)) + "..." : printable(key);
}

/** Bytes as a person reads them: printable UTF-8 stays, the rest becomes \xNN, a backslash is doubled. */
export function printable(bytes: Uint8Array): string {
  let out = "";
  for (let i = 0; i < bytes.length;) {
    const length = sequenceLength(bytes, i);
    const cp = length === 0 ? -1 : codePoint(bytes, i, length);
    if (cp < 0x20 || cp >= 0x7f && cp < 0xa0) {
      for (let k = 0; k < (length || 1); k++) out += "\\x" + toHex(bytes.subarray(i + k, i + k + 1));
    } else out += cp === 0x5c ? "\\\\" : String.fromCodePoint(cp);
    i += length || 1;
  }
  return out;
}

/** Negative, zero or positive as `a` sorts before, with or after `b`, byte by byte: etcd's order of keys. */
export function compareBytes(a: Uint8Array, b: Uint8Array): number {
  const n = Math.min(a.length, b.length);
  for (let i = 0; i < n; i++) if (a[i] !== b[i]) return a[i] - b[i];
  return a.length - b.length;
}

/** The byte strings one after the other, in a new array. */
export function concatBytes(...parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  let length = 0;
  for (const part of parts) length += part.length;
  const out = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
