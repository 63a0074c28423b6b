/** What was typed and chosen, kept in this browser's storage so that it survives a reload. */

import { read, write } from "./storage.js";

const PLACE = "chatterbox-tts-draft";
const PAUSE_MS = 300;

export class Draft {
  /** @param {() => any} current what is to be kept */
  constructor(current) {
    this._current = current;
    addEventListener("pagehide", () => this._keep());
    document.addEventListener("visibilitychange", () => this._keep());
  }

  /** What was kept by an earlier page; empty if there is none. */
  static kept() {
    try {
      return JSON.parse(read(PLACE) || "{}") ?? {};
    } catch {
      return {}; // changed by hand
    }
  }

  /** In a moment, when nothing else is typed. */
  changed() {
    clearTimeout(this._soon);
    this._soon = setTimeout(() => this._keep(), PAUSE_MS);
  }

  _keep() {
    clearTimeout(this._soon);
    write(PLACE, JSON.stringify(this._current()));
  }
}
