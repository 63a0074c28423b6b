/** Choice of the model, its language, and buttons for the sounds that it makes on command. */

import { byId, element } from "./dom.js";
import { languageName } from "./voice_names.js";

export class Models {
  onchange = () => {};
  _models = [];
  _wanted = {};
  _suggested = "";

  /** @param {HTMLTextAreaElement} text where a sound's tag is put */
  constructor(text) {
    this._text = text;
    this._model = byId("model");
    this._language = byId("language");
    this._tags = byId("tags");
    this._model.addEventListener("input", () => {
      this._wanted.model = this._model.value;
      this._modelChanged();
    });
    this._language.addEventListener("input", () => {
      this._wanted.language = this._language.value;
      this.onchange();
    });
  }

  /** What the user has chosen, also where it is not offered at the moment. */
  get wanted() {
    return this._wanted;
  }

  set wanted({ model, language }) {
    this._wanted = { model, language };
    this._offer();
  }

  /**
   * @param {{id: string, languages: string[], tags: string[]}[]} models the default one first
   * @param {string} language the default one
   */
  show(models, language) {
    this._models = models;
    this._standard = language.toLowerCase().split(/[-_]/)[0]; // as the server reads pt-BR
    this._offer();
  }

  /** Of a chosen voice: spoken, unless the user has chosen one. @param {string} language */
  suggest(language) {
    if (language === this._suggested) return;
    this._suggested = language;
    this._modelChanged();
  }

  /** Of all models, in the order of their names. @returns {string[][]} codes and names */
  get languages() {
    const codes = new Set(this._models.flatMap(({ languages }) => languages));
    return named([...codes]);
  }

  /** The chosen one; undefined before they are known. */
  get current() {
    return this._models[this._model.selectedIndex];
  }

  /** Those that are not the server's defaults. @returns {{model?: string, language?: string}} */
  get chosen() {
    const chosen = {};
    if (this._model.selectedIndex > 0) chosen.model = this._model.value;
    if (this._language.value && this._language.value !== this._implied) chosen.language = this._language.value;
    return chosen;
  }

  /** What the server speaks of itself: the voice's language, or the default. */
  get _implied() {
    return this.current.languages.includes(this._suggested) ? this._suggested : this._standard;
  }

  _offer() {
    offer(this._model, this._models.map(({ id }) => [id, id]), this._wanted.model);
    this._modelChanged();
  }

  _modelChanged() {
    const { languages, tags } = this.current ?? { languages: [], tags: [] };
    const wanted = [this._wanted.language, this._suggested, this._standard, "en", languages[0]];
    offer(this._language, named(languages), wanted.find((code) => languages.includes(code)));
    this._tags.replaceChildren(...tags.map((tag) => this._button(tag)));
    this._tags.hidden = !tags.length;
    this.onchange();
  }

  _button(tag) {
    const button = element("button", { type: "button", className: "quiet" }, `[${tag}]`);
    button.addEventListener("click", () => this._insert(`[${tag}]`));
    return button;
  }

  /** At the cursor, with spaces around it. */
  _insert(tag) {
    const { selectionStart, selectionEnd, value } = this._text;
    const before = /(^|\s)$/.test(value.slice(0, selectionStart)) ? "" : " ";
    const after = /^(\s|$)/.test(value.slice(selectionEnd)) ? "" : " ";
    this._text.setRangeText(`${before}${tag}${after}`, selectionStart, selectionEnd, "end");
    this._text.focus();
    this.onchange();
  }
}

/** Shows a choice, unless there is but one. */
function offer(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
  select.parentElement.hidden = options.length < 2;
}

function named(codes) {
  return codes.map((code) => [code, languageName(code)]).sort(([, a], [, b]) => a.localeCompare(b));
}
