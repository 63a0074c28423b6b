/** A sound of the history, as the player shows a playback: complete, and on the audio element. */

import { format } from "./formats.js";
import { Peaks } from "./peaks.js";
import { playable } from "./wav.js";

export class Replay {
  state = "over";
  error = null;
  warning = "";
  times = { firstByte: null, firstSound: null, lastByte: null };
  realTimeFactor = null;
  player = { underruns: 0 };
  answer = null;
  stopped = false;
  canToggle = true;

  /** @param {import("./run_store.js").Run} run @param {Blob} sound @param {HTMLAudioElement} audio */
  constructor(run, sound, audio) {
    this.request = run.request;
    this.format = format(run.request.format);
    this.file = sound;
    this.incomplete = run.incomplete;
    this.peaks = new Peaks(this.format.demuxer(), this.format);
    this._audio = audio;
    this.url = URL.createObjectURL(playable(sound));
    audio.src = this.url;
    audio.play().catch(() => {}); // the button plays it, too
    this._draw(sound);
  }

  get paused() {
    return this._audio.paused;
  }

  get canSeek() {
    return this._audio.seekable.length > 0;
  }

  get position() {
    return this._audio.currentTime;
  }

  set position(seconds) {
    this._audio.currentTime = seconds;
  }

  toggle() {
    if (this._audio.paused) this._audio.play();
    else this._audio.pause();
  }

  observe() {}

  stop() {
    this._audio.pause();
  }

  dispose() {
    this._audio.pause();
    this._audio.removeAttribute("src");
    this._audio.load();
    URL.revokeObjectURL(this.url);
  }

  async _draw(sound) {
    this.peaks.add(new Uint8Array(await sound.arrayBuffer()));
    this.peaks.end();
  }
}
