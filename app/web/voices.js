/** The list of voices: search, choose, hear and delete. */

import { askName } from "./confirm.js";
import { byId, element, iconButton, say } from "./dom.js";
import { hasCode, languageName, nameOf, voiceNameOf } from "./voice_names.js";

const DEFAULT = "";
const UNPLAYABLE = "This browser cannot play the recording.";
const DEFAULT_NAME = "Default voice";
const MANY = 8;
const UNDO_MS = 8000;

const { compare } = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

export class Voices {
  onchange = () => {};
  /** What the user has chosen, also where it is not listed at the moment. */
  wanted = DEFAULT;
  _voices = [];
  _deleted = new Map(); // by id: the timer that ends the time to undo it

  /**
   * @param {Element} root @param {import("./api.js").Api} api
   * @param {{onHear: (id: string) => void, onAdd: () => void}} reactions
   */
  constructor(root, api, { onHear, onAdd }) {
    this._api = api;
    this._onHear = onHear;
    this._search = element("input", { type: "search", placeholder: "Search", hidden: true });
    this._search.setAttribute("aria-label", "Search voices");
    this._search.addEventListener("input", () => this._filter());
    this._list = element("ul", { className: "voices" });
    const group = element("div", { role: "radiogroup", "aria-labelledby": "voices-heading" }, this._list);
    this._none = element("p", { className: "small", hidden: true }, "No voice has this in its name.");
    const add = element("button", { type: "button", id: "add-voice" }, "+ Add a voice");
    add.addEventListener("click", onAdd);
    this._said = element("p", { role: "status", className: "small" });
    this._failed = element("p", { role: "alert", className: "failure" });
    root.append(this._search, group, this._none, add, this._said, this._failed);
    this._recording = new Audio();
    addEventListener("pagehide", () => this._deleteNow());
    this._show([]);
  }

  /** The `voice_id` that is chosen; undefined for the default voice. */
  get chosen() {
    return this._listed(this.wanted) ? this.wanted : undefined;
  }

  /** In the name of the chosen voice, so that the server speaks it; empty if there is none. */
  get language() {
    const { id, language } = this._find(this.wanted) ?? {};
    return language && hasCode(id) ? language : "";
  }

  /** Raises `ApiError`. */
  async refresh() {
    const voices = await this._api.get("voices?details=true");
    const focused = this._list.contains(document.activeElement);
    this._show(voices.map(({ voice_id: id, ...facts }) => ({ ...facts, id, name: nameOf(id, facts.language) })));
    if (focused) this._list.querySelector("input:checked").focus();
  }

  clear() {
    this._show([]);
  }

  /** Clears the message. */
  quiet() {
    say(this._said, "");
    say(this._failed, "");
  }

  say(text) {
    this.quiet();
    say(this._said, text);
  }

  /** Takes back the deletion of a voice, if it is to be deleted. */
  keep(id) {
    clearTimeout(this._deleted.get(id));
    if (this._deleted.delete(id)) this._show(this._voices);
  }

  choose(id) {
    this.wanted = id;
    for (const input of this._list.querySelectorAll("input")) input.checked = input.value === (this.chosen ?? "");
    say(byId("voice-chosen"), this.chosen ? this._nameOf(this._find(id)) : DEFAULT_NAME);
    this.onchange();
  }

  _listed(id) {
    return !this._deleted.has(id) && Boolean(this._find(id));
  }

  _find(id) {
    return this._voices.find((voice) => voice.id === id);
  }

  /** The id, where two voices differ in nothing else. */
  _nameOf({ id, name }) {
    return this._names.get(name) > 1 ? id : name;
  }

  _show(voices) {
    this._voices = voices.sort((a, b) => compare(a.name, b.name) || compare(a.id, b.id));
    this._names = new Map();
    for (const { name } of voices) this._names.set(name, (this._names.get(name) ?? 0) + 1);
    const items = [{ id: DEFAULT }, ...this._voices].map((voice) => this._item(voice));
    this._list.replaceChildren(...items);
    this._search.hidden = voices.length <= MANY;
    if (this._search.hidden) this._search.value = "";
    this._filter();
    if (voices.length && !this._listed(this.wanted)) this.wanted = DEFAULT;
    this.choose(this.wanted);
  }

  _filter() {
    const sought = this._search.value.trim().toLowerCase();
    let found = 0;
    for (const item of this._list.children) {
      const is = item.dataset.name.includes(sought);
      if (item.hidden === is) item.hidden = !is;
      found += Number(is);
    }
    this._none.hidden = found > 0;
  }

  _item(voice) {
    const { id, preloaded, language } = voice;
    const name = id ? this._nameOf(voice) : DEFAULT_NAME;
    const item = element("li", {});
    item.dataset.name = name.toLowerCase();
    if (this._deleted.has(id)) {
      item.append(...this._undo(id, name));
      return item;
    }
    const radio = element("input", { type: "radio", name: "voice", value: id });
    radio.addEventListener("change", () => {
      this.quiet();
      this.choose(id);
    });
    const label = element("label", {}, radio, element("span", {}, name));
    const facts = [language && languageName(language), preloaded && "preloaded"].filter(Boolean).join(", ");
    if (facts) label.lastChild.append(" ", element("span", { className: "small" }, facts));
    item.append(label, iconButton("▶", `Hear ${name}`, () => this._onHear(id)));
    if (id) item.append(iconButton("♪", `Hear the recording of ${name}`, () => this._hearRecording(id)));
    if (!id || preloaded) return item;
    item.append(iconButton("✎", `Rename ${name}`, () => this._rename(id, name)));
    item.append(iconButton("✕", `Delete ${name}`, () => this._delete(id)));
    return item;
  }

  _undo(id, name) {
    const undo = element("button", { type: "button" }, "Undo");
    undo.setAttribute("aria-label", `Undo: keep ${name}`);
    undo.addEventListener("click", () => {
      this.keep(id);
      this._focus(id);
    });
    return [element("span", { className: "deleted", role: "status" }, `“${name}” is deleted.`), undo];
  }

  /** Or ends it. */
  async _hearRecording(id) {
    const playing = !this._recording.paused && this._heard === id;
    this._recording.pause();
    if (playing) return;
    this.quiet();
    try {
      const file = await this._api.recordingOf(id);
      URL.revokeObjectURL(this._recording.src);
      this._recording.src = URL.createObjectURL(file);
      this._heard = id;
      await this._recording.play();
    } catch (error) {
      if (error.name !== "AbortError") say(this._failed, error.advice ?? UNPLAYABLE);
    }
  }

  /** The ending stays. */
  async _rename(id, name) {
    const stem = nameOf(id); // with the code of its language
    const wanted = await askName(`Another name for “${name}”:`, "Rename", stem);
    if (!wanted || wanted === stem) return;
    this.quiet();
    const newId = voiceNameOf(wanted + id.slice(stem.length));
    this.keep(newId);
    try {
      const renamed = await this._api.renameVoice(id, newId);
      if (this.wanted === id) this.wanted = renamed.voice_id;
      await this.refresh();
      say(this._said, `“${name}” is now “${nameOf(renamed.voice_id)}”.`);
    } catch (error) {
      say(this._failed, error.advice ?? error.message);
    }
  }

  /** At the server only after a while, in which it can be undone. */
  _delete(id) {
    this.quiet();
    this._deleted.set(id, setTimeout(() => this._deleteAtServer(id), UNDO_MS));
    if (this.wanted === id) this.wanted = DEFAULT;
    this._show(this._voices);
    this._focus(id);
  }

  _focus(id) {
    const at = this._voices.findIndex((voice) => voice.id === id) + 1; // after the default voice
    this._list.children[at]?.querySelector("button, input").focus();
  }

  async _deleteAtServer(id) {
    const held = this._list.contains(document.activeElement);
    try {
      await this._api.deleteVoice(id).catch(unlessGone);
      this._voices = this._voices.filter((voice) => voice.id !== id);
    } catch (error) {
      say(this._failed, error.advice);
    }
    this._deleted.delete(id);
    this._show(this._voices);
    if (held && !this._list.contains(document.activeElement)) this._list.querySelector("input:checked").focus();
  }

  /** As the page is closed. */
  _deleteNow() {
    for (const [id, timer] of this._deleted) {
      clearTimeout(timer);
      this._api.deleteVoice(id).catch(() => {}); // there is nobody left to tell
    }
    this._deleted.clear();
  }
}

/** What another tab has deleted already is as deleted as it can be. */
function unlessGone(error) {
  if (error.code !== "voice_not_found") throw error;
}
