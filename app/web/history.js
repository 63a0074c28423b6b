/** The list of what was spoken: hear, save or use it again. */

import { confirm } from "./confirm.js";
import { byId, element, iconButton } from "./dom.js";
import { format } from "./formats.js";
import { fileNameOf, incompleteFileOf } from "./received.js";
import { RunStore, surplus } from "./run_store.js";
import { UnfinishedRun } from "./unfinished_run.js";
import { nameOf } from "./voice_names.js";

const SHOWN = 6;
const MORE = 50;
const HOUR_MS = 3_600_000;
/** Firefox ends requests as failed a moment before it closes the page. */
const LEAVING_MS = 2000;

export class History {
  _runs = [];
  _shown = SHOWN;
  _coming = new Map(); // by playback: its unfinished run

  /** @param {{onHear: Function, onUse: Function}} reactions to a run's buttons */
  constructor({ onHear, onUse }) {
    this._onHear = onHear;
    this._onUse = onUse;
    this._store = new RunStore();
    this._list = element("ul", { className: "history" });
    this._said = element("p", { className: "small" });
    this._more = element("button", { type: "button", className: "quiet" }, "Show more");
    this._more.addEventListener("click", () => this._showMore());
    byId("history").append(this._list, this._more, this._said);
    byId("history-clear").addEventListener("click", () => this._clear());
    this._loaded = this._load();
  }

  /** Keeps what comes of a speech, for the next page if this one is closed before `end`. */
  begin(playback) {
    const madeAt = Date.now();
    const describe = () => ({ ...runOf(playback), unfinished: true, madeAt });
    this._coming.set(playback, new UnfinishedRun(this._store, playback, describe));
  }

  /** Nothing more will come of it: what has come is listed. */
  async end(playback) {
    const unfinished = this._coming.get(playback);
    if (!unfinished || unfinished.left) return;
    this._coming.delete(playback);
    await this._loaded;
    const id = await unfinished.end();
    if (playback.file) await this._add({ ...runOf(playback), ...(id !== undefined && { id }) }, playback.file);
    else setTimeout(() => this._store.remove([{ id }]), LEAVING_MS);
  }

  /** @param {import("./run_store.js").Run} run @param {Blob} sound */
  async _add(run, sound) {
    this._runs.unshift(await this._store.add(run, sound));
    const old = surplus(this._runs);
    this._runs.length -= old.length;
    await this._store.remove(old);
    this._list.prepend(this._item(this._runs[0]));
    this._tidy();
  }

  async _load() {
    this._runs = await this._store.list();
    this._list.replaceChildren(...this._runs.slice(0, this._shown).map((run) => this._item(run)));
    this._tidy();
  }

  _showMore() {
    const next = this._runs.slice(this._shown, this._shown + MORE);
    this._shown += MORE;
    const items = next.map((run) => this._item(run));
    this._list.append(...items);
    items[0]?.querySelector("button").focus();
    this._tidy();
  }

  _tidy() {
    while (this._list.children.length > Math.min(this._shown, this._runs.length)) this._list.lastChild.remove();
    this._more.hidden = this._runs.length <= this._shown;
    byId("history-clear").hidden = !this._runs.length;
    const none = this._runs.length ? "" : "What you have spoken is kept here, in this browser.";
    this._said.textContent = this._store.problem || none;
  }

  _item(run) {
    const text = element("p", { className: "quote" }, run.text);
    const facts = element("p", { className: "small" }, factsOf(run).join(" · "));
    const hear = iconButton("▶", `Play: ${brief(run)}`, () => this._hear(run));
    const save = iconButton("↓", `Download: ${brief(run)}`, () => this._save(run));
    hear.disabled = save.disabled = !run.seconds;
    const use = element("button", { type: "button", className: "quiet" }, "Use again");
    use.setAttribute("aria-label", `Use again: ${brief(run)}`);
    use.addEventListener("click", () => this._onUse(run.request));
    return element("li", {}, hear, element("div", {}, text, facts), save, use);
  }

  async _hear(run) {
    const sound = await this._sound(run);
    if (sound) this._onHear(run, sound);
  }

  async _save(run) {
    const sound = await this._sound(run);
    if (!sound) return;
    const link = element("a", { href: URL.createObjectURL(sound), download: run.name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // the browser reads it first
  }

  async _sound(run) {
    const kept = await this._store.soundOf(run);
    const sound = kept && run.unfinished ? await incompleteFileOf(format(run.request.format), kept) : kept;
    if (!sound) this._said.textContent = "The browser has deleted this sound.";
    return sound;
  }

  async _clear() {
    if (!(await confirm("Clear the history? Its sounds are deleted from this browser.", "Clear"))) return;
    const old = this._runs;
    this._runs = [];
    this._shown = SHOWN;
    await this._store.remove(old);
    this._tidy();
  }
}

const brief = (run) => [...run.text].slice(0, 40).join("");

/** Of a playback, as it is at this moment. */
function runOf(playback) {
  const { request, file, pieces, peaks, incomplete } = playback;
  const size = file?.size ?? pieces.reduce((sum, piece) => sum + piece.length, 0);
  const facts = { name: fileNameOf(playback), size, seconds: peaks.seconds, incomplete };
  return { text: request.text, request, madeAt: Date.now(), ...facts };
}

function lengthOf({ seconds, incomplete, unfinished }) {
  if (unfinished && !seconds) return "interrupted before the first sound";
  return `${seconds.toFixed(1)} s${unfinished ? ", interrupted" : incomplete ? ", incomplete" : ""}`;
}

function factsOf(run) {
  const { request, madeAt } = run;
  const made = new Date(madeAt);
  const recent = Date.now() - madeAt < 12 * HOUR_MS;
  const when = recent ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" };
  return [
    request.voice_id ? nameOf(request.voice_id) : "Default voice",
    request.model,
    lengthOf(run),
    new Intl.DateTimeFormat(undefined, when).format(made),
  ].filter(Boolean);
}
