/** The current request in other languages, in tabs. */

import { element, say } from "./dom.js";
import { LANGUAGES } from "./snippet_texts.js";

const PLACEHOLDER = "YOUR_API_KEY";

export class Snippets {
  /** @param {Element} root @param {HTMLInputElement} reveal whether the real key is shown */
  constructor(root, reveal, api) {
    this._reveal = reveal;
    this._api = api;
    this._tabs = Object.keys(LANGUAGES).map((name) => this._tab(name));
    const list = element("div", { className: "tabs", role: "tablist", "aria-label": "Language" }, ...this._tabs);
    list.addEventListener("keydown", (event) => this._move(event));
    this._code = element("code");
    this._box = element("pre", { tabIndex: 0, id: "snippet", role: "tabpanel" }, this._code);
    this._reason = element("p", { className: "small" });
    this._copy = element("button", { type: "button", className: "quiet" }, "Copy");
    this._copy.addEventListener("click", () => this._copyText());
    root.append(element("div", { className: "between" }, list, this._copy), this._box, this._reason);
    this._choose(this._tabs[0]);
  }

  /** @param {any} request @param {string} problem why it would be refused */
  show(request, problem) {
    this._what = { request, problem };
    this._update();
  }

  _tab(name) {
    const tab = element("button", { type: "button", role: "tab", className: "quiet", id: `tab-${name}` }, name);
    tab.setAttribute("aria-controls", "snippet");
    tab.addEventListener("click", () => this._choose(tab));
    return tab;
  }

  _choose(chosen) {
    for (const tab of this._tabs) {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
    }
    this._chosen = chosen;
    this._box.setAttribute("aria-labelledby", chosen.id);
    this._update();
  }

  _move({ key }) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
    if (!step) return;
    const count = this._tabs.length;
    this._choose(this._tabs[(this._tabs.indexOf(this._chosen) + step + count) % count]);
    this._chosen.focus();
  }

  _update() {
    if (!this._what) return;
    const { request, problem } = this._what;
    const key = this._reveal.checked ? this._api.key.value : PLACEHOLDER;
    const base = this._api.url("").replace(/\/$/, "");
    const { text, reason } = LANGUAGES[this._chosen.textContent]({ base, request, key });
    const obstacle = problem || reason || "";
    say(this._code, obstacle ? "" : text);
    say(this._reason, obstacle);
    this._box.hidden = this._copy.hidden = Boolean(obstacle);
  }

  async _copyText() {
    say(this._copy, (await copied(this._code)) ? "Copied" : "Press Ctrl+C");
    setTimeout(() => say(this._copy, "Copy"), 2000);
  }
}

/** Without https, a browser may only mark the text for the user to copy. */
export async function copied(code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(code);
    return false;
  }
}
