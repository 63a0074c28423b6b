/** The button that tries a failed request again, with the seconds until that makes sense. */

import { byId, say } from "./dom.js";

const WORTH_IT = [0, 429, 502, 503, 504];
const WORTH_IT_CODES = ["broken_off"];

export class Retry {
  /** @param {() => void} onRetry */
  constructor(onRetry) {
    this._button = byId("retry");
    this._button.addEventListener("click", onRetry);
  }

  /** @param {import("./api.js").ApiError} error */
  offer(error) {
    const { status, code, retryAfter } = error;
    if (!WORTH_IT.includes(status) && !WORTH_IT_CODES.includes(code)) return;
    this._left = retryAfter ?? 0;
    this._button.hidden = false;
    this._count();
  }

  withdraw() {
    clearTimeout(this._next);
    this._button.hidden = true;
  }

  _count() {
    clearTimeout(this._next);
    say(this._button, this._left > 0 ? `Retry (better in ${this._left} s)` : "Retry");
    if (this._left <= 0) return;
    this._left -= 1;
    this._next = setTimeout(() => this._count(), 1000);
  }
}
