/** The server's status, polled every 2 s while the page is visible. */

import { byId, element, say, showPairs } from "./dom.js";
import { UNREACHABLE, failureOf, sentence } from "./api.js";
import { copied } from "./snippets.js";

const EVERY_MS = 2000;
const HURRIED_MS = 500;
const PREVIEW =
  "This is the built-in preview voice: it speaks English, and clones no voice. For cloned voices, stop the server, fetch Chatterbox in the clone's folder (9 GB), and start it again:";
const CURE =
  ".venv/bin/pip install -c .ci/constraints.txt '.[preview,chatterbox]'\n.venv/bin/chatterbox-tts models download";

export class Status {
  /** The answer of `/system-status` has come. */
  onstatus = (status) => {};
  /** Whether it is asked for more often. */
  hurried = false;

  /**
   * @param {{root: Element, pill: Element, notice: HTMLElement}} places
   * @param {() => void} onBack the server answers again
   */
  constructor({ root, pill, notice }, api, onBack) {
    this._api = api;
    this._onBack = onBack;
    this._reached = true;
    this._pill = pill;
    this._notice = notice;
    this._machine = element("dl", { className: "facts" });
    this._workers = element("ul", { className: "workers" });
    root.append(this._machine, this._workers);
    document.addEventListener("visibilitychange", () => this.refresh());
    this.refresh();
  }

  /** Now, and from now on every 2 s, or more often. */
  async refresh() {
    clearTimeout(this._next);
    if (document.hidden) return;
    const turn = (this._turn = Symbol("turn"));
    try {
      await this._ask();
    } catch (error) {
      this._gone(error);
    }
    if (turn === this._turn) this._next = setTimeout(() => this.refresh(), this.hurried ? HURRIED_MS : EVERY_MS);
  }

  async _ask() {
    const health = await (await this._api.open("health")).json();
    const ready = await this._api.open("ready");
    const waiting = ready.ok ? "" : (await failureOf(ready)).advice;
    this._tell(health, waiting);
    if (this._api.key.value) this._show(await this._api.get("system-status"));
    else this._clear("Needs the key.");
  }

  _tell(health, waiting) {
    if (!this._reached) this._onBack();
    this._reached = true;
    this._pill.dataset.state = waiting ? "waiting" : "ready";
    say(this._pill, waiting || `Ready · ${health.model} · ${health.version}`);
    this._showNotice(health);
  }

  /** With the commands that make it go. */
  _showNotice({ model, notice }) {
    const text = model === "preview" ? PREVIEW : notice && sentence(notice);
    if (text === this._shownNotice) return;
    this._shownNotice = text;
    this._notice.hidden = !text;
    byId("add-preview").hidden = model !== "preview";
    this._notice.replaceChildren(element("p", {}, text ?? ""));
    if (model === "preview") this._notice.append(commandBox(CURE));
  }

  _gone(error) {
    if (error.status === 401) return; // said where the key is asked for
    this._reached = Boolean(error.status);
    this._pill.dataset.state = "gone";
    say(this._pill, error.status ? error.advice : UNREACHABLE);
    this._clear("No answer.");
  }

  _clear(reason) {
    this._machine.replaceChildren();
    this._workers.replaceChildren(element("li", { className: "small" }, reason));
  }

  _show(status) {
    this.onstatus(status);
    const { cpu, gpus, workers, queue } = status;
    const { used, total } = cpu.ram_gb;
    showPairs(this._machine, [
      ["Queue", `${queue.running} running, ${queue.waiting} of at most ${queue.limit} waiting`],
      ["CPU", `${cpu.utilization_percent} %`],
      ["RAM", `${used} of ${total} GB`],
      ...(gpus.length ? gpus.map(gpuPair) : [["GPU", "none"]]),
    ]);
    this._workers.replaceChildren(...workers.map(workerItem));
  }
}

/** Commands, and a button that copies them. */
function commandBox(text) {
  const code = element("code", {}, text);
  const copy = element("button", { type: "button", className: "quiet" }, "Copy");
  copy.setAttribute("aria-label", "Copy the commands");
  copy.addEventListener("click", async () => say(copy, (await copied(code)) ? "Copied" : "Press Ctrl+C"));
  const box = element("pre", { tabIndex: 0, role: "group", "aria-label": "Commands" }, code);
  return element("div", { className: "command" }, box, copy);
}

function gpuPair({ device_id, utilization_percent, memory_gb }) {
  const { used, total } = memory_gb;
  return [`GPU ${device_id}`, `${utilization_percent.gpu} %, ${used} of ${total} GB`];
}

function workerItem(worker) {
  const restarts = worker.restarts ? `, restarts: ${worker.restarts}` : "";
  const state = element("span", { className: "pill" }, worker.state);
  state.dataset.state = worker.state === "ready" ? "ready" : "waiting";
  const item = element("li", {}, element("strong", {}, worker.id), " ", state);
  item.append(` ${worker.busy} of ${worker.slots} slots busy${restarts}`);
  for (const text of [worker.last_error, worker.notice].filter(Boolean)) {
    item.append(element("p", { className: "small" }, sentence(text)));
  }
  return item;
}
