/** Snippets: the same request as a command for a shell, and as HTML. */

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

/** An audio tag, or why there can be none. */
export function audioTag({ url, request, key }) {
  if (request.format === "raw_pcm") return "Raw PCM has no header, so no audio tag plays it.";
  const query = new URLSearchParams({ ...request, api_key: key }).toString().replaceAll("+", "%20");
  const src = `${url}?${query}`;
  if (src.length > LONGEST_URL) return "The text is too long for a URL: send it as the command does.";
  return `<audio controls src="${src.replaceAll("&", "&amp;")}"></audio>`;
}

export class Snippets {
  /** @param {Element} root @param {HTMLInputElement} reveal whether the real key is shown */
  constructor(root, reveal, api) {
    this._reveal = reveal;
    this._api = api;
    this._curl = snippet(root, "Command");
    this._tag = snippet(root, "Audio tag");
  }

  /** @param {any} request @param {string} ending */
  show(request, ending) {
    const key = this._reveal.checked ? this._api.key.value : PLACEHOLDER;
    const what = { url: this._api.url("tts/generate"), request, key, ending };
    say(this._curl, curl(what));
    say(this._tag, audioTag(what));
  }
}

/** A box with a button that copies what is in it. */
function snippet(root, name) {
  const code = element("code");
  const box = element("pre", { tabIndex: 0, role: "group", "aria-label": name }, code);
  const button = element("button", { type: "button", className: "quiet" }, "Copy");
  button.setAttribute("aria-label", `Copy: ${name}`);
  button.addEventListener("click", async () => {
    say(button, (await copied(code)) ? "Copied" : "Press Ctrl+C");
    setTimeout(() => say(button, "Copy"), 2000);
  });
  root.append(element("div", { className: "between" }, element("h3", {}, name), button), box);
  return code;
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
