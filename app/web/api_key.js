/** The API key, kept in this browser's storage only, or in memory where that is blocked. */

import { read, remove, write } from "./storage.js";

const PLACE = "chatterbox-tts-key";

export class Key {
  /** Another tab has kept another one, or forgotten it. */
  onchange = () => {};

  constructor() {
    this.value = read(PLACE);
    addEventListener("storage", () => {
      if (read(PLACE) === this.value) return;
      this.value = read(PLACE);
      this.onchange();
    });
  }

  keep(value) {
    this.value = value;
    write(PLACE, value);
  }

  forget() {
    this.value = "";
    remove(PLACE);
  }
}

/** For a header: its UTF-8, as the characters of those bytes, which is all that a header takes. */
export function headerOf(value) {
  return String.fromCharCode(...new TextEncoder().encode(value));
}

/**
 * The key in the page's address, `#key=…`, which no browser sends to a server. It is removed from
 * the address and from the browser's history. Empty if there is none.
 */
export function takeKeyFromAddress() {
  const key = new URLSearchParams(location.hash.slice(1).replaceAll("+", "%2B")).get("key");
  if (key !== null) history.replaceState(null, "", location.pathname + location.search);
  return key ?? "";
}
