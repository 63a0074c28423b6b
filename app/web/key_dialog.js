/** The dialog that asks for the API key and has the server check it. */

import { byId, say } from "./dom.js";

const WRONG_LINK = "The key in this link is wrong. Enter the API_KEY that the server was started with, or open the link that it printed.";
const REFUSED = "The server no longer takes the key that was kept here.";

export class KeyDialog {
  /** @param {import("./api.js").Api} api @param {() => void} onChanged the key is another one */
  constructor(api, onChanged) {
    this._api = api;
    this._onChanged = onChanged;
    this._dialog = byId("key-dialog");
    this._input = byId("key");
    this._failure = byId("key-failure");
    byId("key-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this._use(this._input.value.trim());
    });
    byId("key-cancel").addEventListener("click", () => this._dialog.close());
    byId("key-forget").addEventListener("click", () => this._forget());
    byId("key-button").addEventListener("click", () => this.open());
    api.key.onchange = () => this._changed();
    this._name();
  }

  /** @param {string} reason why it is asked for, if it was known before */
  open(reason = "") {
    say(this._failure, reason);
    byId("key-forget").hidden = !this._api.key.value;
    if (!this._dialog.open) this._dialog.showModal();
  }

  /** Asks for the key; resolves, once the dialog is closed, to whether there is one. */
  ask() {
    if (!this._dialog.open) this.open();
    return new Promise((resolve) => {
      const finish = () => resolve(Boolean(this._api.key.value));
      this._dialog.addEventListener("close", finish, { once: true });
    });
  }

  /** Takes the key of a link, if the server does; the one that was kept stays otherwise. */
  async useFromLink(value) {
    try {
      if (!(await this._api.accepts(value))) {
        this.open(WRONG_LINK);
        return;
      }
    } catch (error) {
      this._input.value = value; // another try needs no link
      this.open(error.message);
      return;
    }
    this._api.key.keep(value);
    this._changed();
  }

  /** Forgets the key that the server did not take, and asks for another one. */
  refuse() {
    const reason = this._api.key.value && REFUSED;
    this._api.key.forget();
    this._name();
    this.open(reason);
  }

  async _use(value) {
    say(this._failure, "");
    try {
      if (!(await this._api.accepts(value))) {
        say(this._failure, "The server does not take this key.");
        this._input.select();
        return;
      }
    } catch (error) {
      say(this._failure, error.message);
      return;
    }
    this._api.key.keep(value);
    this._changed();
  }

  _forget() {
    this._api.key.forget();
    this._changed();
  }

  _changed() {
    this._input.value = "";
    this._dialog.close();
    this._name();
    this._onChanged();
  }

  _name() {
    byId("key-button").textContent = this._api.key.value ? "Key…" : "Enter the key…";
  }
}
