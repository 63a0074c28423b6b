/** FLAC, whose frames tell their start and their samples, but not where they end. */

import { Demuxer, joined, viewOf } from "./demuxers.js";

const LAST_BLOCK = 0x80;
const MARK = 4; // bytes: fLaC

/** A part is a frame, which the start of the next one completes. */
export class FlacDemuxer extends Demuxer {
  _frames = 0;
  _inFrames = false;

  end() {
    const last = this._inFrames && frameAt(this._rest, 0, this._frames);
    return last ? [{ bytes: this._take(this._rest.length), samples: last.samples }] : [];
  }

  _next() {
    if (!this._inFrames) return this._metadata();
    const frame = frameAt(this._rest, 0, this._frames);
    if (!frame) return null;
    const next = startOf(this._rest, this._frames + 1);
    if (next < 0) return null;
    this._frames += 1;
    return { bytes: this._take(next), samples: frame.samples };
  }

  /** A block of it, and the mark before the first. */
  _metadata() {
    const start = this.init.length ? 0 : MARK;
    if (this._rest.length < start + 4) return null;
    const head = viewOf(this._rest).getUint32(start);
    const size = start + 4 + (head & 0xffffff);
    if (this._rest.length < size) return null;
    this._inFrames = Boolean((head >>> 24) & LAST_BLOCK);
    const bytes = this._take(size);
    this.init = joined([this.init, bytes]);
    return { bytes, samples: 0 };
  }
}

/** Where the frame of this number starts; negative if that has not come. */
function startOf(bytes, number) {
  let at = bytes.indexOf(0xff, 1);
  while (at > 0 && !frameAt(bytes, at, number)) at = bytes.indexOf(0xff, at + 1);
  return at;
}

/** The header of the frame of this number, if it is there. */
function frameAt(bytes, at, number) {
  const head = bytes.subarray(at, at + 16);
  if (head[0] !== 0xff || (head[1] & 0xfe) !== 0xf8) return null;
  const [found, after] = codedNumber(head, 4);
  const code = head[2] >> 4;
  const inFull = { 6: 1, 7: 2 }[code] ?? 0; // bytes of the number of samples
  const end = after + inFull + ({ 12: 1, 13: 2, 14: 2 }[head[2] & 15] ?? 0);
  if (found !== number || end >= head.length || checksum(head.subarray(0, end)) !== head[end]) return null;
  if (inFull) return { samples: 1 + (inFull === 1 ? head[after] : viewOf(head).getUint16(after)) };
  if (code === 1) return { samples: 192 };
  return { samples: code < 6 ? 576 << (code - 2) : 256 << (code - 8) };
}

/** Coded as UTF-8, and where it ends. */
function codedNumber(bytes, at) {
  const more = Math.max(0, Math.clz32(~(bytes[at] << 24)) - 1);
  let number = more ? bytes[at] & (0x3f >> more) : bytes[at];
  for (let n = 1; n <= more; n++) number = number * 64 + (bytes[at + n] & 0x3f);
  return [number, at + more + 1];
}

/** CRC-8. */
function checksum(bytes) {
  let sum = 0;
  for (const byte of bytes) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = ((sum << 1) ^ (sum & 0x80 ? 0x07 : 0)) & 0xff;
  }
  return sum;
}
