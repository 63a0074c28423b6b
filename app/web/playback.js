/**
 * One request from the click to the last sound, with its measurements.
 *
 * Its states are "asking", "streaming", "playing" and "over"; a failure ends it with an `error`.
 * `onchange` is called at each step.
 */

import { ApiError } from "./api.js";
import { format } from "./formats.js";
import { Peaks } from "./peaks.js";
import { fileOf } from "./received.js";
import { playable } from "./wav.js";

export class Playback {
  state = "asking";
  error = null;
  /** A sentence about why received sound is not playing. */
  warning = "";
  /** Whether the browser cannot play it; the rest is still received, to be saved. */
  unplayable = false;
  /** The headers to show. */
  answer = null;
  /** Seconds since the click; null before the event. */
  times = { firstByte: null, firstSound: null, lastByte: null };
  /** What has been received. @type {Uint8Array[]} */
  pieces = [];
  /** The file to save, incomplete after an error; null before. */
  file = null;
  onchange = () => {};

  /** @param {import("./api.js").Api} api @param {any} request @param {HTMLAudioElement} audio */
  constructor(api, request, audio) {
    this.request = request;
    this.format = format(request.format);
    this.peaks = new Peaks(this.format.demuxer(), this.format);
    this.player = this.format.player(audio);
    this.player.onended = () => this._heard();
    this.player.onwarning = (warning) => this._warn(warning);
    this.player.onunplayable = () => this._giveUpHearing();
    this._api = api;
    this._audio = audio;
    this._stopping = new AbortController();
  }

  /** Returns when everything was received; never raises. */
  async speak() {
    this._clicked = performance.now();
    this.player.start();
    try {
      const answer = await this._api.speak(this.request, this._stopping.signal);
      this.answer = headersOf(answer);
      this._become("streaming");
      await this._receive(answer.body.getReader());
      this._complete();
    } catch (error) {
      this._fail(error);
    }
  }

  get paused() {
    return this.url ? this._audio.paused : this.player.paused;
  }

  /** Whether the sound can be paused and played. */
  get canToggle() {
    return Boolean(this.url) || (this.peaks.seconds > 0 && this.player.ready && !this.unplayable);
  }

  /** Whether another position can be chosen. */
  get canSeek() {
    return Boolean(this._audio.src) && this._audio.seekable.length > 0;
  }

  get position() {
    return this.url ? this._audio.currentTime : this.player.position;
  }

  set position(seconds) {
    this._audio.currentTime = seconds;
  }

  toggle() {
    if (!this.url) this.player.toggle();
    else if (this._audio.paused) this._audio.play();
    else this._audio.pause();
  }

  /** Stops the server, too; what was received can be replayed. */
  stop() {
    this._halt();
    if (!this.peaks.seconds) return;
    this.file ??= this._whole();
    if (!this.unplayable) this._offerAgain();
  }

  get stopped() {
    return this._stopping.signal.aborted;
  }

  /** Whether the file, if there is one, lacks its end. */
  get incomplete() {
    return this.times.lastByte === null;
  }

  /** Time of generation, without the wait in the queue, divided by the length of the audio. */
  get realTimeFactor() {
    const { lastByte } = this.times;
    if (!lastByte || !this.peaks.seconds) return null;
    return Math.max(0, lastByte - this.answer.queued) / this.peaks.seconds;
  }

  /** To be called often: records when the first audible sample was played. */
  observe() {
    if (this.url) return; // a replay is not measured
    const { audibleAt } = this.peaks;
    const late = audibleAt === null ? -1 : this.player.position - audibleAt;
    if (late >= 0 && this.player.position > 0) this.times.firstSound ??= this._elapsed() - late;
  }

  async _receive(reader) {
    for (let piece; !(piece = await reader.read()).done; ) {
      this.times.firstByte ??= this._elapsed();
      this.pieces.push(piece.value);
      this.player.append(piece.value);
      this.peaks.add(piece.value);
    }
    this.times.lastByte = this._elapsed();
  }

  _complete() {
    this.peaks.end();
    if (!this.peaks.seconds) {
      this._end(new Error("The answer has no sound in it."));
      return;
    }
    this.file = fileOf(this.format, new Blob(this.pieces));
    this._play();
  }

  /** Plays what was received of an incomplete answer. */
  _fail(error) {
    if (this.stopped) return;
    if (!this.peaks.seconds) {
      this._end(this.answer ? new ApiError(this._broken(), 200, "broken_off") : error);
      return;
    }
    this.error = new ApiError(this._broken(), 200, "broken_off");
    this.file = this._whole();
    this._play();
  }

  /** What was received, up to the end of the last complete part. */
  _whole() {
    const sound = new Blob(this.pieces);
    return fileOf(this.format, sound.slice(0, sound.size - this.peaks.unfinishedBytes));
  }

  /** Of all that was to come. */
  _play() {
    this._become(this.unplayable ? "over" : "playing");
    if (!this.unplayable) this.player.end();
  }

  _giveUpHearing() {
    this.unplayable = true;
    if (this.state === "playing") this._become("over");
    else this.onchange();
  }

  _end(error) {
    this.error = error;
    this.player.stop();
    this._become("over");
  }

  _broken() {
    const heard = this.peaks.seconds.toFixed(1);
    return `The answer broke off after ${heard} s of sound: what you hear is incomplete. The server's log says why.`;
  }

  _heard() {
    this.observe();
    if (!this.player.keeps && this.file) this._offerAgain();
    if (this.state === "playing") this._become("over");
  }

  /** Gives the audio element the file, where the player has not kept all of it. */
  _offerAgain() {
    this.player.stop();
    this.url = URL.createObjectURL(playable(this.file));
    this._audio.src = this.url;
  }

  /** Releases all memory. */
  dispose() {
    this._halt();
    if (!this.url) return;
    this._audio.removeAttribute("src");
    this._audio.load();
    URL.revokeObjectURL(this.url);
  }

  _halt() {
    this._stopping.abort();
    this.player.stop();
    if (this.state !== "over") this._become("over");
  }

  _warn(warning) {
    if (this.state === "over" || this.warning === warning) return;
    this.warning = warning;
    this.onchange();
  }

  _become(state) {
    this.state = state;
    this.onchange();
  }

  _elapsed() {
    return (performance.now() - this._clicked) / 1000;
  }
}

function headersOf(answer) {
  const header = (name) => answer.headers.get(name);
  return {
    requestId: header("X-Request-ID"),
    model: header("X-TTS-Model"),
    notice: header("X-TTS-Notice"),
    queued: Number(/queue;dur=([\d.]+)/.exec(header("Server-Timing") ?? "")?.[1] ?? 0) / 1000,
  };
}
