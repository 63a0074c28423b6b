/** The current request as a shell command and as HTML. */

import { element, say } from "./dom.js";

const PLACEHOLDER = "<YOUR_API_KEY>";
const LONGEST_URL = 60_000;

/** For bash and its like: in single quotes nothing has a meaning but the quote. */
export const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** @param {{url: string, request: any, key: string, ending: string}} what */
export function curl({ url, request, key, ending }) {
  return [
    `curl -X POST ${quoted(url)}`,
    `  -H 'Content-Type: application/json'`,
    `  -H ${quoted(`X-API-Key: ${key}`)}`,
    `  --data-raw ${quoted(JSON.stringify(request))}`,
    `  --output speech.${ending}`,
  ].join(" \\\n");
}

/** @param {{url: string, request: any, key: string}} what */
export function audioTag(what) {
  return `<audio controls src="${sourceOf(what).replaceAll("&", "&amp;")}"></audio>`;
}

/** Why there can be no audio tag, in a sentence; empty if there can. */
function untaggable(what) {
  if (what.request.format === "raw_pcm") return "Raw PCM has no header, so no audio tag plays it.";
  const isLong = sourceOf(what).length > LONGEST_URL;
  return isLong ? "The text is too long for a URL: send it as the command does." : "";
}

function sourceOf({ url, request, key }) {
  const query = new URLSearchParams({ ...request, api_key: key }).toString().replaceAll("+", "%20");
  return `${url}?${query}`;
}

export class Snippets {
  /** @param {Element} root @param {HTMLInputElement} reveal whether the real key is shown */
  constructor(root, reveal, api) {
    this._reveal = reveal;
    this._api = api;
    this._curl = new Snippet(root, "Command");
    this._tag = new Snippet(root, "Audio tag");
  }

  /** @param {any} request @param {string} ending @param {string} problem why it would be refused */
  show(request, ending, problem) {
    const key = this._reveal.checked ? this._api.key.value : PLACEHOLDER;
    const what = { url: this._api.url("tts/generate"), request, key, ending };
    this._curl.show(curl(what), problem);
    this._tag.show(audioTag(what), problem || untaggable(what));
  }
}

/** A box with a button that copies its text, or the reason why there is none. */
class Snippet {
  constructor(root, name) {
    this._code = element("code");
    this._box = element("pre", { tabIndex: 0, role: "group", "aria-label": name }, this._code);
    this._reason = element("p", { className: "small" });
    this._button = element("button", { type: "button", className: "quiet" }, "Copy");
    this._button.setAttribute("aria-label", `Copy: ${name}`);
    this._button.addEventListener("click", () => this._copy());
    const head = element("div", { className: "between" }, element("h3", {}, name), this._button);
    root.append(head, this._box, this._reason);
  }

  show(text, reason) {
    say(this._code, text);
    say(this._reason, reason);
    this._box.hidden = this._button.hidden = Boolean(reason);
  }

  async _copy() {
    say(this._button, (await copied(this._code)) ? "Copied" : "Press Ctrl+C");
    setTimeout(() => say(this._button, "Copy"), 2000);
  }
}

/** Without https, a browser may only mark the text for the user to copy. */
async function copied(code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(code);
    return false;
  }
}
