/** A recording that is to become a voice: its samples, and the part of it that is sent. */

import { SAMPLE_RATE } from "./demuxers.js";
import { wavOf } from "./wav.js";

const SHORTEST_S = 1;
const SILENT = 0.01;
const MARGIN_S = 0.15;

export class Clip {
  /** @param {Blob} file @param {AudioBuffer | null} decoded null where the browser cannot decode it */
  constructor(file, decoded) {
    this.file = file;
    this._samples = decoded ? mixed(decoded) : new Float32Array();
    this._rate = decoded?.sampleRate ?? 1;
    this.from = 0;
    this.to = this.seconds;
  }

  /** @param {Blob} file */
  static async of(file) {
    const context = new OfflineAudioContext(1, 1, SAMPLE_RATE);
    const decoded = await context.decodeAudioData(await file.arrayBuffer()).catch(() => null);
    return new Clip(file, decoded);
  }

  get decoded() {
    return this._samples.length > 0;
  }

  get seconds() {
    return this._samples.length / this._rate;
  }

  get isWhole() {
    return this.from <= 0.01 && this.to >= this.seconds - 0.01;
  }

  /** Why it can be no voice, in a sentence; empty if it may be one. */
  get problem() {
    if (!this.decoded) return "";
    const length = this.to - this.from;
    if (length < SHORTEST_S) {
      return `This is ${Math.max(0, length).toFixed(1)} s long: a voice needs 1 s at least, and 10 s are better.`;
    }
    return this._loudest < SILENT ? "There is no sound in this: is the microphone muted?" : "";
  }

  /** Leaves out the silence at both ends. */
  trimSilence() {
    const least = Math.max(SILENT, this._loudest * 0.05);
    const first = this._samples.findIndex((sample) => Math.abs(sample) > least);
    const last = this._samples.findLastIndex((sample) => Math.abs(sample) > least);
    if (first < 0) return;
    this.from = Math.max(0, first / this._rate - MARGIN_S);
    this.to = Math.min(this.seconds, last / this._rate + MARGIN_S);
  }

  /** The chosen part, as a WAV file. */
  wav() {
    const part = this._part;
    const pcm = new DataView(new ArrayBuffer(part.length * 2));
    for (const [n, sample] of part.entries()) {
      pcm.setInt16(2 * n, Math.max(-1, Math.min(1, sample)) * 32767, true);
    }
    return wavOf(new Blob([pcm]), this._rate);
  }

  /** The loudest sample of each of `count` equal parts of the whole. */
  peaks(count) {
    const size = this._samples.length / count;
    return Array.from({ length: count }, (_, n) =>
      loudest(this._samples.subarray(Math.floor(n * size), Math.floor((n + 1) * size))),
    );
  }

  get _part() {
    return this._samples.subarray(Math.round(this.from * this._rate), Math.round(this.to * this._rate));
  }

  get _loudest() {
    return loudest(this._part);
  }
}

function loudest(samples) {
  let most = 0;
  for (const sample of samples) most = Math.max(most, Math.abs(sample));
  return most;
}

/** Of all channels, their mean. */
function mixed(decoded) {
  const channels = Array.from({ length: decoded.numberOfChannels }, (_, n) => decoded.getChannelData(n));
  if (channels.length === 1) return channels[0];
  return channels[0].map((_, n) => channels.reduce((sum, channel) => sum + channel[n], 0) / channels.length);
}
