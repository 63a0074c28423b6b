/**
 * Demuxers split the bytes of one format into its smallest decodable parts as they arrive.
 *
 * A part is `{bytes, samples}`, with its length at 24 kHz. Consecutive parts can be decoded after
 * `init`, which may be empty. `delay` is the number of samples of encoder priming.
 */

export const SAMPLE_RATE = 24_000;

export class Demuxer {
  init = new Uint8Array();
  delay = 0;
  _rest = new Uint8Array();

  get unfinishedBytes() {
    return this._rest.length;
  }

  /** @param {Uint8Array} bytes @returns {{bytes: Uint8Array, samples: number}[]} */
  push(bytes) {
    this._rest = joined([this._rest, bytes]);
    const parts = [];
    for (let part; (part = this._next()); ) if (part.samples) parts.push(part);
    return parts;
  }

  /** What is left when no more will come, as parts. */
  end() {
    return [];
  }

  _take(size) {
    const taken = this._rest.subarray(0, size);
    this._rest = this._rest.subarray(size);
    return taken;
  }
}

/** fMP4: a part is a `moof` box with the `mdat` after it; AAC has 1024 samples in a frame. */
export class Mp4Demuxer extends Demuxer {
  delay = 1024;

  _next() {
    const first = boxAt(this._rest, 0);
    if (!first) return null;
    if (first.type !== "moof") {
      this.init = joined([this.init, this._take(first.size)]);
      return { bytes: this.init, samples: 0 };
    }
    const data = boxAt(this._rest, first.size);
    if (!data) return null;
    const frames = framesIn(this._rest.subarray(8, first.size));
    return { bytes: this._take(first.size + data.size), samples: frames * 1024 };
  }
}

/** The box that starts there, if all of it has come. */
function boxAt(bytes, start) {
  if (bytes.length < start + 8) return null;
  const size = viewOf(bytes).getUint32(start);
  const type = String.fromCharCode(...bytes.subarray(start + 4, start + 8));
  return bytes.length < start + size ? null : { type, size };
}

/** The number of frames in a `moof`: the counts of its `traf/trun` boxes. */
function framesIn(bytes) {
  let frames = 0;
  for (let at = 0, box; (box = boxAt(bytes, at)); at += box.size) {
    const inside = bytes.subarray(at + 8, at + box.size);
    if (box.type === "traf") frames += framesIn(inside);
    if (box.type === "trun") frames += viewOf(inside).getUint32(4);
  }
  return frames;
}

const CLUSTER = 0x1f43b675;
const SEGMENT = 0x18538067;
const BLOCKS = [0xa3, 0xa0];
const OPUS_FRAME = SAMPLE_RATE / 50;

/** WebM: a part is a cluster; its blocks are Opus frames of 20 ms. */
export class WebmDemuxer extends Demuxer {
  delay = 156;
  _begun = false; // boxes after the clusters (an index) do not belong to `init`

  _next() {
    const first = ebmlAt(this._rest, 0);
    const size = first?.id === SEGMENT ? first.header : first?.end; // whose own length is unknown
    if (!first || this._rest.length < size) return null;
    const bytes = this._take(size);
    if (first.id === CLUSTER) {
      this._begun = true;
      return { bytes, samples: blocksIn(bytes.subarray(first.header)) * OPUS_FRAME };
    }
    if (!this._begun) this.init = joined([this.init, bytes]);
    return { bytes, samples: 0 };
  }
}

function blocksIn(bytes) {
  let blocks = 0;
  for (let at = 0, one; (one = ebmlAt(bytes, at)); at = one.end) {
    if (BLOCKS.includes(one.id)) blocks += 1;
  }
  return blocks;
}

/** Id, and where header and content end, of the element that starts there. */
function ebmlAt(bytes, start) {
  const id = numberAt(bytes, start, true);
  const size = id && numberAt(bytes, start + id.length, false);
  if (!size) return null;
  const header = start + id.length + size.length;
  return { id: id.value, header, end: header + size.value };
}

/** A number of EBML: the zeros it begins with are the bytes that follow. */
function numberAt(bytes, start, marked) {
  const length = Math.clz32(bytes[start] ?? 0) - 23;
  if (length > 8 || bytes.length < start + length) return null;
  let value = marked ? bytes[start] : bytes[start] & (0xff >> length);
  for (const byte of bytes.subarray(start + 1, start + length)) value = value * 256 + byte;
  return { value, length };
}

const KBPS = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];

/** MP3 of 24 kHz (MPEG-2, layer III): a part is a frame. */
export class Mp3Demuxer extends Demuxer {
  _next() {
    if (this._rest.length < 4) return null;
    if (this._rest[0] !== 0xff) return { bytes: this._take(1), samples: 0 };
    const size = 3 * (KBPS[this._rest[2] >> 4] || 1) + ((this._rest[2] >> 1) & 1); // 72 · rate / 24 kHz
    return this._rest.length < size ? null : { bytes: this._take(size), samples: 576 };
  }
}

/** AAC in ADTS: a part is a frame, whose header has its length. */
export class AdtsDemuxer extends Demuxer {
  _next() {
    if (this._rest.length < 7) return null;
    const size = ((viewOf(this._rest).getUint32(3) >> 13) & 0x1fff) || 7;
    return this._rest.length < size ? null : { bytes: this._take(size), samples: 1024 };
  }
}

/** Opus in Ogg: a part is a page; the first two, at position 0, are headers. */
export class OggDemuxer extends Demuxer {
  delay = 156;
  _passed = 0; // samples of 48 kHz

  _next() {
    const segments = this._rest[26];
    if (this._rest.length < 27 + segments || segments === undefined) return null;
    const size = this._rest.subarray(27, 27 + segments).reduce((sum, one) => sum + one, 27 + segments);
    if (this._rest.length < size) return null;
    const bytes = this._take(size);
    const position = Number(viewOf(bytes).getBigInt64(6, true));
    if (!position) this.init = joined([this.init, bytes]);
    const samples = Math.max(0, position - this._passed) / 2;
    this._passed = Math.max(position, this._passed);
    return { bytes, samples };
  }
}

/** PCM, after a header of `headerBytes`; a part is all that has arrived. */
export class PcmDemuxer extends Demuxer {
  constructor(headerBytes) {
    super();
    this._header = headerBytes;
  }

  _next() {
    if (this._header) {
      if (this._rest.length < this._header) return null;
      this._take(this._header);
      this._header = 0;
    }
    const whole = this._rest.length & ~1;
    return whole ? { bytes: this._take(whole), samples: whole / 2 } : null;
  }
}

/** 16-bit little-endian to ±1. @param {Uint8Array} bytes */
export function samplesOf(bytes) {
  const view = viewOf(bytes);
  return Float32Array.from({ length: bytes.length / 2 }, (_, n) => view.getInt16(2 * n, true) / 32768);
}

/** @param {Uint8Array[]} pieces */
export function joined(pieces) {
  const whole = new Uint8Array(pieces.reduce((size, piece) => size + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

export const viewOf = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
