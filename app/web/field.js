/** A parameter of the server's schema as a field of a form: its value, limits and default. */

import { element } from "./dom.js";

export class Field {
  /** Why it means nothing to the chosen model; empty if it does. */
  ignored = "";

  /** @param {any} parameter of the schema @param {() => void} onReset */
  constructor({ name, description, schema }, onReset) {
    this.name = name;
    this._type = schema.anyOf?.find((one) => one.type !== "null") ?? schema;
    this.standard = schema.default ?? "";
    this._input = inputOf(this._type, name);
    this._description = description.replaceAll("`", "");
    this._meaning = element("p", { className: "small", id: `${this._input.id}-meaning` });
    this._input.setAttribute("aria-describedby", this._meaning.id);
    this.row = this._rowOf(onReset);
    this.adapt(this.standard, "");
    this.reset();
  }

  /** Null of a field that was left empty. */
  get value() {
    const { value, checked } = this._input;
    if (this._type.type === "boolean") return checked;
    if (this._type.enum) return value;
    if (this._type.type === "string") return value.trim() || null;
    return value === "" ? null : Number(value);
  }

  set value(value) {
    if (this._type.type === "boolean") this._input.checked = value;
    else this._input.value = value;
  }

  get isChanged() {
    return !this.ignored && this.value !== null && this.value !== this.standard;
  }

  /** Why the server would refuse it, in a sentence; empty if it would not. */
  get problem() {
    return this.ignored ? "" : this._input.validationMessage;
  }

  /** To another model, whose default takes the place of an unchanged value. */
  adapt(standard, ignored) {
    const { standard: before, value } = this;
    this.standard = standard;
    this.ignored = ignored;
    if (value === before || value === null) this.reset();
    this._input.disabled = Boolean(ignored);
    if ("placeholder" in this._input) this._input.placeholder = standard === "" ? "random" : String(standard);
    this._meaning.textContent = ignored || `${this._description} ${limitsOf(this._type, standard)}`;
  }

  reset() {
    this.value = this.standard;
  }

  focus() {
    this._input.focus();
  }

  /** Shows whether it is changed, and what is wrong with it. */
  check() {
    this.row.classList.toggle("changed", this.isChanged);
    this.row.classList.toggle("ignored", Boolean(this.ignored));
    this._input.setCustomValidity(isWithin(this._input, this._type) ? "" : problemOf(this.name, this._type));
    if (!this.problem) this.mark(false);
  }

  mark(is) {
    this._input.setAttribute("aria-invalid", String(is));
  }

  _rowOf(onReset) {
    const words = this.name.split(/(?<=_)/).flatMap((word) => [word, element("wbr")]);
    const label = element("label", {}, ...words);
    label.htmlFor = this._input.id;
    const undo = element("button", { type: "button", className: "quiet icon", title: "Reset" }, "↺");
    undo.setAttribute("aria-label", `Reset ${this.name}`);
    undo.addEventListener("click", () => {
      this.reset();
      onReset();
      this.focus();
    });
    return element("div", { className: "parameter" }, label, this._input, undo, this._meaning);
  }
}

function isWithin(input, { exclusiveMinimum }) {
  const { badInput, stepMismatch, rangeUnderflow, rangeOverflow } = input.validity;
  if (badInput || stepMismatch || rangeUnderflow || rangeOverflow) return false;
  return input.value === "" || !(Number(input.value) <= exclusiveMinimum);
}

function problemOf(name, type) {
  return `${name} must be a ${type.type === "integer" ? "whole " : ""}number, ${rangeOf(type)}.`;
}

function inputOf(type, name) {
  const id = `parameter-${name}`;
  if (type.enum) {
    return element("select", { id }, ...type.enum.map((one) => element("option", {}, one)));
  }
  if (type.type === "boolean") return element("input", { type: "checkbox", id });
  return element("input", {
    type: "number",
    id,
    min: String(type.minimum ?? type.exclusiveMinimum ?? ""),
    max: String(type.maximum ?? ""),
    step: type.type === "integer" ? "1" : "any",
    inputMode: type.type === "integer" ? "numeric" : "decimal",
  });
}

function limitsOf(type, standard) {
  const range = type.maximum === undefined ? "" : `${rangeOf(type)}, `;
  return `(${range}default ${standard === "" ? "random" : standard})`;
}

function rangeOf({ minimum, exclusiveMinimum, maximum }) {
  return `${minimum ?? `above ${exclusiveMinimum}`} to ${maximum}`;
}
