/** Sliders for the parameters that people speak of, with words at their ends. */

import { element } from "./dom.js";

/** `sign` -1: the parameter grows to the left. The API's bounds may be wider. */
export const SLIDERS = [
  {
    name: "voice_exaggeration_factor",
    label: "Expressiveness",
    ends: ["Calm", "Dramatic"],
    bounds: [0, 1.5],
    sign: 1,
  },
  {
    name: "synthesis_temperature",
    label: "Steadiness",
    ends: ["Varied", "Steady"],
    bounds: [0.2, 1.4],
    sign: -1,
  },
  { name: "speed", label: "Pace", ends: ["Slow", "Fast"], bounds: [0.5, 1.5], sign: 1 },
];

export class Slider {
  /** @param {any} scale one of `SLIDERS` @param {import("./field.js").Field} field its parameter */
  constructor({ name, label, ends, bounds, sign }, field, onInput) {
    this._field = field;
    this._sign = sign;
    const [min, max] = bounds.map((bound) => bound * sign).sort((a, b) => a - b);
    this._input = element("input", { type: "range", id: `slider-${name}`, min, max, step: 0.05 });
    this._input.addEventListener("input", () => {
      field.value = Number((this._input.value * sign).toFixed(2));
      onInput();
    });
    this._number = element("output", { className: "small" });
    this._number.htmlFor = this._input.id;
    this._reason = element("p", { className: "small", id: `${this._input.id}-reason` });
    this._input.setAttribute("aria-describedby", this._reason.id);
    const title = element("label", {}, label);
    title.htmlFor = this._input.id;
    const words = ends.map((word) => element("span", { className: "small", "aria-hidden": "true" }, word));
    this._ends = ends;
    this.row = element(
      "div",
      { className: "slider" },
      element("div", { className: "between" }, title, this._number),
      this._input,
      element("div", { className: "between" }, ...words),
      this._reason,
    );
  }

  /** Shows the parameter's value. */
  update() {
    const { value, standard, ignored } = this._field;
    const shown = value ?? standard;
    this._input.value = String(shown * this._sign);
    this._number.textContent = this._sign > 0 ? shown : ""; // it would fall towards "Steady"
    this._input.setAttribute("aria-valuetext", `${shown}, from ${this._ends.join(" to ")}`);
    this._input.disabled = Boolean(ignored);
    this._reason.textContent = ignored;
    this.row.classList.toggle("ignored", Boolean(ignored));
  }
}
