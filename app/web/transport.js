/** The player: the waveform, which is the position's slider, and the button beside it. */

import { byId, say } from "./dom.js";
import { Waveform } from "./waveform.js";

const SHORTEST_S = 6;

export class Transport {
  /** @type {import("./playback.js").Playback | null} */
  _playback = null;

  constructor() {
    this._button = byId("play");
    this._seek = byId("seek");
    this._waveform = new Waveform(byId("waveform"));
    this._button.addEventListener("click", () => this._playback?.toggle());
    this._seek.addEventListener("input", () => this._goTo(Number(this._seek.value)));
    this._seek.setAttribute("aria-label", "Position");
  }

  show(playback) {
    this._playback = playback;
  }

  describe(text) {
    this._waveform.describe(text);
  }

  /** As it is at this moment. */
  draw() {
    const playback = this._playback;
    const position = playback ? playback.position : 0;
    const width = widthOf(playback);
    this._waveform.draw(playback?.peaks.values ?? [], position, width);
    this._showButton(playback);
    this._showPosition(playback, position, width);
  }

  _showButton(playback) {
    const is = Boolean(playback?.canToggle);
    if (this._button.disabled === is) this._button.disabled = !is;
    const paused = !is || playback.paused;
    say(this._button, paused ? "▶" : "❚❚");
    const name = paused ? "Play" : "Pause";
    if (this._button.getAttribute("aria-label") !== name) this._button.setAttribute("aria-label", name);
  }

  _showPosition(playback, position, width) {
    const shown = playback ? `${clock(position)} / ${clock(playback.peaks.seconds)}` : "";
    if (this._seek.disabled === Boolean(playback?.canSeek)) this._seek.disabled = !playback?.canSeek;
    if (byId("clock").textContent === shown && this._width === width) return;
    say(byId("clock"), shown);
    this._width = width;
    this._seek.max = String(width);
    this._seek.value = String(position);
    this._seek.setAttribute("aria-valuetext", shown.replace("/", "of"));
  }

  _goTo(seconds) {
    if (this._playback?.canSeek) this._playback.position = seconds;
  }
}

/** Of the waveform, in seconds: the sound's, but while it comes, a short one leaves room for more. */
function widthOf(playback) {
  const seconds = playback?.peaks.seconds || SHORTEST_S;
  return playback?.state === "streaming" ? Math.max(SHORTEST_S, seconds) : seconds;
}

function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}
