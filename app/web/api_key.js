/** The API key, kept in this browser's storage only, or in memory where that is blocked. */

const PLACE = "chatterbox-tts-key";

export class Key {
  /** Another tab has kept another one, or forgotten it. */
  onchange = () => {};

  constructor() {
    this.value = kept();
    addEventListener("storage", () => {
      if (kept() === this.value) return;
      this.value = kept();
      this.onchange();
    });
  }

  keep(value) {
    this.value = value;
    stored((storage) => storage.setItem(PLACE, value));
  }

  forget() {
    this.value = "";
    stored((storage) => storage.removeItem(PLACE));
  }
}

/** For a header: its UTF-8, as the characters of those bytes, which is all that a header takes. */
export function headerOf(value) {
  return String.fromCharCode(...new TextEncoder().encode(value));
}

const kept = () => stored((storage) => storage.getItem(PLACE)) ?? "";

function stored(use) {
  try {
    return use(localStorage);
  } catch {
    return null; // blocked by the browser's settings
  }
}
