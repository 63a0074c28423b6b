/** The parameters of a request: presets, sliders, and a field for each under its API name. */

import { byId, element, say } from "./dom.js";
import { Field } from "./field.js";
import { PRESETS, PRESET_NAMES } from "./presets.js";
import { SLIDERS, Slider } from "./slider.js";

const ELSEWHERE = ["text", "voice_id", "format", "model", "language"];

export class Parameters {
  onchange = () => {};
  _fields = [];
  _sliders = [];
  _model = null;

  /** @param {(sample: string) => void} onPreset with the preset's sample text */
  constructor(onPreset) {
    this._form = byId("parameters");
    this._wanted = {};
    this._reset = element("button", { type: "button", className: "quiet", hidden: true }, "Reset all");
    this._reset.addEventListener("click", () => this._resetAll());
    this._form.addEventListener("submit", (event) => event.preventDefault());
    this._form.addEventListener("input", () => this._changed());
    this._presets = PRESETS.map((preset) => [preset, this._presetButton(preset, onPreset)]);
  }

  /** What was changed, also before the server's schema is known. */
  get wanted() {
    return this._fields.length ? this._changedIn(this._fields) : this._wanted;
  }

  set wanted(values) {
    this._wanted = values;
    if (!this._fields.length) return;
    for (const field of this._fields) field.value = values[field.name] ?? field.standard;
    this._changed();
  }

  /** What was changed before, stays. @param {any[]} parameters of the schema's `GET /tts/generate` */
  show(parameters) {
    const { wanted } = this;
    const shown = parameters.filter(({ name }) => !ELSEWHERE.includes(name));
    this._fields = shown.map((parameter) => new Field(parameter, () => this._changed()));
    this._standards = Object.fromEntries(this._fields.map((field) => [field.name, field.standard]));
    this._form.replaceChildren(...this._fields.map((field) => field.row), this._reset);
    this._sliders = SLIDERS.filter(({ name }) => this._field(name)).map(
      (scale) => new Slider(scale, this._field(scale.name), () => this._changed()),
    );
    byId("sliders").replaceChildren(...this._sliders.map((slider) => slider.row));
    byId("presets").replaceChildren(...this._presets.map(([, button]) => button));
    if (this._model) this.adapt(this._model);
    this.wanted = wanted;
  }

  /** To the chosen model. @param {{id: string, defaults: any, unused: string[]}} model */
  adapt(model) {
    this._model = model;
    for (const field of this._fields) {
      const ignored = model.unused?.includes(field.name) ? `${model.id} does not use it.` : "";
      field.adapt(model.defaults?.[field.name] ?? this._standards[field.name], ignored);
    }
    this._changed();
  }

  /** Those that are not as the server has them by itself. @returns {Record<string, any>} */
  get changed() {
    return this._changedIn(this._fields);
  }

  /** Why the server would refuse them, in a sentence; empty if it would not. */
  get problem() {
    return this._fields.map((field) => field.problem).find(Boolean) ?? "";
  }

  /** Opens them at the first that is outside its limits. */
  pointOut() {
    byId("parameters-details").open = true;
    for (const field of this._fields) field.mark(Boolean(field.problem));
    this._form.reportValidity();
  }

  _changedIn(fields) {
    const changed = fields.filter((field) => field.isChanged);
    return Object.fromEntries(changed.map((field) => [field.name, field.value]));
  }

  _field(name) {
    return this._fields.find((field) => field.name === name);
  }

  _presetButton(preset, onPreset) {
    const button = element("button", { type: "button", title: preset.hint }, preset.name);
    button.addEventListener("click", () => {
      for (const field of this._presettable()) field.value = preset.values[field.name] ?? field.standard;
      this._changed();
      onPreset(preset.sample);
    });
    return button;
  }

  _presettable() {
    return this._fields.filter(({ name, ignored }) => PRESET_NAMES.includes(name) && !ignored);
  }

  _resetAll() {
    for (const field of this._fields) field.reset();
    byId("parameters-details").querySelector("summary").focus(); // as the button goes
    this._changed();
  }

  _changed() {
    for (const field of this._fields) field.check();
    for (const slider of this._sliders) slider.update();
    for (const [{ values }, button] of this._presets) {
      const fields = this._presettable();
      const is = fields.length && fields.every((field) => field.value === (values[field.name] ?? field.standard));
      button.setAttribute("aria-pressed", String(Boolean(is)));
    }
    const count = Object.keys(this.changed).length;
    this._reset.hidden = !count && !this.problem;
    say(byId("changed"), count ? `${count} changed` : "");
    this.onchange();
  }
}
