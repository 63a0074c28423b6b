/** The list of voices: choose, preview, delete and upload. */

import { element, say } from "./dom.js";
import { confirm } from "./confirm.js";
import { ENDINGS, voiceNameOf } from "./voice_names.js";

const DEFAULT = "";

export class Voices {
  onchange = () => {};

  /** @param {Element} root @param {import("./api.js").Api} api @param {(id: string) => void} onHear */
  constructor(root, api, onHear) {
    this._api = api;
    this._onHear = onHear;
    this._list = element("ul", { className: "voices" });
    const group = element("div", { role: "radiogroup", "aria-labelledby": "voices-heading" }, this._list);
    this._said = element("p", { role: "status", className: "small" });
    this._failed = element("p", { role: "alert", className: "failure" });
    this._progress = element("progress", { max: 1, value: 0, hidden: true });
    this._progress.setAttribute("aria-label", "Upload");
    root.append(group, this._dropZone(), this._progress, this._said, this._failed);
    this._show([]);
  }

  /** The `voice_id` that is chosen; undefined for the default voice. */
  get chosen() {
    return this._list.querySelector("input:checked").value || undefined;
  }

  /** Raises `ApiError`. */
  async refresh() {
    const asked = ["voices", "voices?preloaded=true"].map((path) => this._api.get(path));
    const [ids, preloaded] = await Promise.all(asked);
    const focused = this._list.contains(document.activeElement);
    this._show(ids, preloaded);
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

  _show(ids, preloaded = []) {
    const chosen = this._list.querySelector("input:checked")?.value ?? DEFAULT;
    const items = [DEFAULT, ...ids].map((id) => this._item(id, preloaded.includes(id)));
    this._list.replaceChildren(...items);
    this._choose(ids.includes(chosen) ? chosen : DEFAULT);
  }

  _choose(id) {
    for (const input of this._list.querySelectorAll("input")) input.checked = input.value === id;
    this.onchange();
  }

  _item(id, preloaded) {
    const radio = element("input", { type: "radio", name: "voice", value: id });
    radio.addEventListener("change", () => {
      this.quiet();
      this.onchange();
    });
    const name = id || "Default voice";
    const label = element("label", {}, radio, element("span", {}, name));
    const hear = this._button("▶", `Hear ${name}`, () => this._onHear(id));
    const item = element("li", {}, label, hear);
    if (preloaded) label.append(element("span", { className: "small" }, "preloaded"));
    else if (id) item.append(this._button("✕", `Delete ${id}`, () => this._delete(id)));
    return item;
  }

  _button(sign, name, react) {
    const button = element("button", { type: "button", className: "quiet icon", title: name }, sign);
    button.setAttribute("aria-label", name);
    button.addEventListener("click", react);
    return button;
  }

  async _delete(id) {
    if (!(await confirm(`Delete the voice “${id}”? Its recording is lost.`, "Delete"))) return;
    await this._report(async () => {
      await this._api.deleteVoice(id).catch(unlessGone);
      await this.refresh();
      return `“${id}” is deleted.`;
    });
  }

  _dropZone() {
    const input = element("input", { type: "file", accept: ENDINGS.join(), id: "upload" });
    input.addEventListener("change", () => {
      if (input.files.length) this._upload(input.files[0]);
      input.value = "";
    });
    const hint = element("span", { className: "small" }, "One speaker, 1 s to 5 min. Or drop it here.");
    const zone = element("div", { className: "drop" }, this._uploadLabel(), input, hint);
    const over = (is) => (event) => {
      event.preventDefault();
      zone.classList.toggle("over", is);
    };
    zone.addEventListener("dragover", over(true));
    zone.addEventListener("dragleave", over(false));
    zone.addEventListener("drop", (event) => {
      over(false)(event);
      if (event.dataTransfer.files.length) this._upload(event.dataTransfer.files[0]);
    });
    return zone;
  }

  _uploadLabel() {
    const label = element("label", {}, "Add a voice from a recording");
    label.htmlFor = "upload";
    return label;
  }

  _upload(file) {
    return this._report(async () => {
      const added = await this._send(file, voiceNameOf(file.name));
      if (!added) return "";
      await this.refresh();
      this._choose(added.voice_id);
      return addedAs(added.voice_id, file.name.normalize("NFC"));
    });
  }

  /** What the server says of the new voice; null if the one of that name is to stay. */
  async _send(file, name) {
    const onProgress = (share) => {
      this._progress.value = share;
    };
    try {
      return await this._api.uploadVoice(file, { name, replace: false, onProgress });
    } catch (error) {
      if (error.code !== "voice_exists") throw error;
    }
    if (!(await confirm(`There is a voice “${name}” already.`, "Replace it"))) return null;
    return this._api.uploadVoice(file, { name, replace: true, onProgress });
  }

  /** Does `work` and shows its result or its error. */
  async _report(work) {
    this.quiet();
    this._progress.value = 0;
    this._progress.hidden = false;
    try {
      say(this._said, await work());
    } catch (error) {
      say(this._failed, error.message);
    }
    this._progress.hidden = true;
  }
}

function addedAs(id, fileName) {
  if (id === fileName) return `“${id}” is added and chosen.`;
  return `“${fileName}” is added as “${id}”, and chosen.`;
}

/** What another tab has deleted already is as deleted as it can be. */
function unlessGone(error) {
  if (error.code !== "voice_not_found") throw error;
}
