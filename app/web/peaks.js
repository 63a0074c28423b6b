/**
 * Computes the loudest sample of each 20 ms from a format's bytes as they arrive.
 *
 * Each part is decoded once, with a few parts before it, which frames of AAC, Opus and MP3 need;
 * so the time is linear in the length.
 */

import { SAMPLE_RATE, joined, samplesOf } from "./demuxers.js";

export const PEAKS_PER_S = 50;
const BIN = SAMPLE_RATE / PEAKS_PER_S;
const OVERLAP = SAMPLE_RATE / 5;
const LONGEST = 20 * SAMPLE_RATE;
const AUDIBLE = 0.02;

export class Peaks {
  /** @type {number[]} 0 to 1, `PEAKS_PER_S` for each second */
  values = [];
  /** When the first audible sound begins, in seconds; null as long as all is silent. */
  audibleAt = null;

  /** @param {any} demuxer @param {{encoded: boolean}} format */
  constructor(demuxer, { encoded }) {
    this._demuxer = demuxer;
    this._decode = encoded ? decodeAudio : ({ fresh }) => samplesOf(joined(fresh));
    this._before = [];
    this._waiting = [];
    this._at = -demuxer.delay;
    this._end = this._at;
    this._working = null;
  }

  /** The length of all that has come, decoded or not yet. */
  get seconds() {
    return Math.max(0, this._end / SAMPLE_RATE);
  }

  /** Of a part that has not come whole. */
  get unfinishedBytes() {
    return this._demuxer.unfinishedBytes;
  }

  /** @param {Uint8Array} bytes */
  add(bytes) {
    this._take(this._demuxer.push(bytes));
  }

  /** No more will come. */
  end() {
    this._take(this._demuxer.end());
  }

  _take(parts) {
    this._waiting.push(...parts);
    this._end += lengthOf(parts);
    this._working ??= this._work();
  }

  async _work() {
    await null; // so that parts of one read are decoded together
    while (this._waiting.length) {
      const fresh = upTo(LONGEST, this._waiting);
      const length = lengthOf(fresh);
      this._measure(await this._samples(fresh, length), length);
      this._before = lastOf(OVERLAP, [...this._before, ...fresh]);
    }
    this._working = null;
  }

  /** Of the fresh parts alone: the end of what the decoder makes. */
  async _samples(fresh, length) {
    const bytes = (parts) => parts.map((part) => part.bytes);
    const { init } = this._demuxer;
    try {
      const decoded = await this._decode({ init, before: bytes(this._before), fresh: bytes(fresh) });
      return decoded.subarray(Math.max(0, decoded.length - length));
    } catch {
      return new Float32Array(); // a browser that cannot decode parts draws nothing
    }
  }

  _measure(samples, length) {
    const start = this._at + length - samples.length;
    this._at += length;
    for (let n = Math.max(0, -start); n < samples.length; n++) {
      const bin = Math.floor((start + n) / BIN);
      const loudness = Math.abs(samples[n]);
      while (this.values.length <= bin) this.values.push(0);
      if (loudness > this.values[bin]) this.values[bin] = loudness;
      if (loudness > AUDIBLE) this.audibleAt ??= (start + n) / SAMPLE_RATE;
    }
  }
}

const decoder = new OfflineAudioContext(1, 1, SAMPLE_RATE);

async function decodeAudio({ init, before, fresh }) {
  const file = joined([init, ...before, ...fresh]);
  return (await decoder.decodeAudioData(file.buffer)).getChannelData(0);
}

const lengthOf = (parts) => parts.reduce((length, part) => length + part.samples, 0);

/** Takes the first parts off a list, one at least. */
function upTo(samples, parts) {
  let count = 1;
  for (let length = parts[0].samples; count < parts.length && length < samples; count++) {
    length += parts[count].samples;
  }
  return parts.splice(0, count);
}

function lastOf(samples, parts) {
  let first = parts.length;
  for (let length = 0; first > 0 && length < samples; ) length += parts[--first].samples;
  return parts.slice(first);
}
