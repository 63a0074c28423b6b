/**
 * Players play a format's bytes as they arrive.
 *
 * All have `start` (in the click, or a phone will not play), `append`, `end`, `stop`, `toggle`
 * between `paused` and playing (once `ready`), the `position` of playback in seconds, `underruns` (silent waits after the first sound),
 * `keeps` (whether all of it can be replayed), `onended`, `onunplayable` when playback has failed,
 * and `onwarning` with a sentence, which is empty when the problem is over.
 */

import { PcmDemuxer, SAMPLE_RATE, samplesOf } from "./demuxers.js";

const Source = window.ManagedMediaSource ?? window.MediaSource; // iPhones have the first only
const BLOCKED = "Your browser waits for you to press play.";
const UNPLAYABLE = "This browser cannot play that; try another format.";
const KEPT_S = 10;
const AHEAD_S = 5;
const LEAD_S = 0.06;

/** Whether `MsePlayer` plays this type. */
export const streams = (type) => Boolean(Source?.isTypeSupported(type));

/** What the players have in common that play by the page's audio element. */
class ElementPlayer {
  onended = () => {};
  onunplayable = () => {};
  onwarning = () => {};
  underruns = 0;
  keeps = true;

  /** @param {HTMLAudioElement} audio @param {string} type */
  constructor(audio, type) {
    this._audio = audio;
    this._type = type;
    this._listening = new AbortController();
    const on = (event, react) => audio.addEventListener(event, react, this._listening);
    on("waiting", () => this._count());
    on("ended", () => this.onended());
    on("playing", () => this.onwarning(""));
    on("error", () => this._fail());
  }

  get position() {
    return this._audio.currentTime;
  }

  /** Whether there is something to play. */
  get ready() {
    return Boolean(this._url);
  }

  get paused() {
    return this._audio.paused;
  }

  toggle() {
    if (this.paused) this._play();
    else this._audio.pause();
  }

  stop() {
    this._listening.abort();
    this._audio.pause();
    this._audio.removeAttribute("src");
    this._audio.load();
    if (this._url) URL.revokeObjectURL(this._url);
  }

  _show(source) {
    this._url = URL.createObjectURL(source);
    this._audio.src = this._url;
    this._play();
  }

  _play() {
    this._audio.play().catch((error) => {
      if (error.name === "NotAllowedError") this.onwarning(BLOCKED);
    });
  }

  _fail() {
    this.onwarning(UNPLAYABLE);
    this.onunplayable();
  }

  _count() {
    const { currentTime, seeking, ended } = this._audio;
    if (currentTime > 0 && !seeking && !ended) this.underruns += 1;
  }
}

/** By Media Source Extensions: sound while the rest is being made. */
export class MsePlayer extends ElementPlayer {
  start() {
    this._waiting = [];
    this._ended = false;
    this._source = new Source();
    this._audio.disableRemotePlayback = true; // else a ManagedMediaSource never opens
    this._source.addEventListener("sourceopen", () => this._open(), { once: true });
    this._audio.addEventListener("timeupdate", () => this._pump(), this._listening);
    this._show(this._source);
  }

  append(bytes) {
    this._waiting.push(bytes);
    this._pump();
  }

  end() {
    this._ended = true;
    this._pump();
  }

  _open() {
    if (this._source.readyState !== "open") return; // stopped, while this event was on its way
    this._buffer = this._source.addSourceBuffer(this._type);
    this._buffer.addEventListener("updateend", () => this._pump());
    this._pump();
  }

  /** One step, if the last one is over; it is called again when this one is. */
  _pump() {
    if (!this._buffer || this._buffer.updating || this._source.readyState !== "open") return;
    if (this._waiting.length) this._feed();
    else if (this._ended) this._source.endOfStream();
  }

  _feed() {
    try {
      this._buffer.appendBuffer(this._waiting[0]);
      this._waiting.shift();
    } catch (error) {
      if (error.name !== "QuotaExceededError") throw error;
      this._makeRoom();
    }
  }

  /** Without anything played that could go, the next `timeupdate` tries again. */
  _makeRoom() {
    const { buffered } = this._buffer;
    const upTo = this._audio.currentTime - KEPT_S;
    if (buffered.length && buffered.start(0) < upTo) {
      this.keeps = false;
      this._buffer.remove(0, upTo);
    }
  }
}

/** Where a browser cannot play the type as it comes: all of it, once it is there. */
export class WholePlayer extends ElementPlayer {
  start() {
    this._pieces = [];
  }

  append(bytes) {
    this._pieces.push(bytes);
  }

  end() {
    this._show(new Blob(this._pieces, { type: this._type }));
  }
}

/** PCM, placed on an audio context's clock. */
export class PcmPlayer {
  onended = () => {};
  onunplayable = () => {};
  onwarning = () => {};
  underruns = 0;
  keeps = false;

  /** @param {number} headerBytes before the samples */
  constructor(headerBytes) {
    this._demuxer = new PcmDemuxer(headerBytes);
    this._waiting = [];
    this._sounding = 0;
    this._placed = 0; // seconds
    this._until = 0; // on the context's clock
  }

  /** The length of scheduled audio that has been played. */
  get position() {
    if (!this._until) return 0;
    return this._placed - Math.max(0, this._until - this._context.currentTime);
  }

  get ready() {
    return !this._closed;
  }

  get paused() {
    return this._context.state !== "running";
  }

  toggle() {
    if (this.paused) this._context.resume();
    else this._context.suspend();
  }

  start() {
    this._context = new AudioContext({ sampleRate: SAMPLE_RATE });
    this._context.resume();
  }

  append(bytes) {
    this._waiting.push(...this._demuxer.push(bytes).map((part) => part.bytes));
    this._pump();
  }

  end() {
    this._ended = true;
    this._pump();
  }

  stop() {
    this.onended = () => {};
    this._close();
  }

  /** Once: Firefox rejects a second time, and its context's state changes only later. */
  _close() {
    this._closed ??= this._context.close();
  }

  /** Not all at once: an hour of placed buffers would be held in memory. */
  _pump() {
    while (this._waiting.length && !(this._until > this._context.currentTime + AHEAD_S)) {
      this._place(this._waiting.shift());
    }
    if (this._ended && !this._sounding && !this._waiting.length) {
      this._close();
      this.onended();
    }
  }

  _place(bytes) {
    const samples = samplesOf(bytes);
    const buffer = this._context.createBuffer(1, samples.length, SAMPLE_RATE);
    buffer.copyToChannel(samples, 0);
    const source = new AudioBufferSourceNode(this._context, { buffer });
    source.connect(this._context.destination);
    source.onended = () => this._passed();
    source.start(this._begin());
    this._sounding += 1;
    this._until += buffer.duration;
    this._placed += buffer.duration;
  }

  /** Schedules directly after earlier audio or, when that is over, in a moment. */
  _begin() {
    const soonest = this._context.currentTime + LEAD_S;
    if (this._until >= this._context.currentTime) return this._until;
    if (this._until) this.underruns += 1;
    return (this._until = soonest);
  }

  _passed() {
    this._sounding -= 1;
    if (!this._closed) this._pump();
  }
}
