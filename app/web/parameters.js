/** A form field for each parameter of the server's schema, with description and default. */

import { element, say } from "./dom.js";

const ELSEWHERE = ["text", "voice_id", "format", "model", "language"];

export class Parameters {
  onchange = () => {};
  _fields = [];

  /** @param {HTMLFormElement} form @param {Element} count where it says how many are changed */
  constructor(form, count) {
    this._form = form;
    this._count = count;
    this._reset = element("button", { type: "button", className: "quiet", hidden: true }, "Reset all");
    this._reset.addEventListener("click", () => this._resetAll());
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => this._changed());
  }

  /** What was changed before, stays. @param {any[]} parameters of the schema's `GET /tts/generate` */
  show(parameters) {
    const { changed } = this;
    const shown = parameters.filter(({ name }) => !ELSEWHERE.includes(name));
    this._fields = shown.map((parameter) => fieldOf(parameter, () => this._changed()));
    for (const field of this._fields) if (field.name in changed) field.set(changed[field.name]);
    this._form.replaceChildren(...this._fields.map((field) => field.row), this._reset);
    this._changed();
  }

  /** Those that are not as the server has them by itself. @returns {Record<string, any>} */
  get changed() {
    const changed = this._fields.filter((field) => field.isChanged());
    return Object.fromEntries(changed.map((field) => [field.name, field.value()]));
  }

  /** Why the server would refuse them, in a sentence; empty if it would not. */
  get problem() {
    return this._fields.map((field) => field.problem()).find(Boolean) ?? "";
  }

  /** Opens them at the first that is outside its limits. */
  pointOut() {
    this._form.closest("details").open = true;
    for (const field of this._fields) field.mark(Boolean(field.problem()));
    this._form.reportValidity();
  }

  _resetAll() {
    for (const field of this._fields) field.reset();
    this._form.closest("details").querySelector("summary").focus(); // as the button goes
    this._changed();
  }

  _changed() {
    for (const field of this._fields) {
      field.row.classList.toggle("changed", field.isChanged());
      field.check();
      if (!field.problem()) field.mark(false);
    }
    const count = Object.keys(this.changed).length;
    this._reset.hidden = !count && !this.problem;
    say(this._count, count ? `${count} changed` : "all at their defaults");
    this.onchange();
  }
}

/** A row of the form, and how its value is read and reset. */
function fieldOf({ name, description, schema }, onReset) {
  const type = schema.anyOf?.find((one) => one.type !== "null") ?? schema;
  const standard = schema.default ?? "";
  const input = inputOf(type, standard, name);
  const set = (value) => {
    if (type.type === "boolean") input.checked = value;
    else input.value = value;
  };
  const reset = () => set(standard);
  const value = () => valueOf(input, type);
  const isChanged = () => value() !== null && value() !== standard;
  const undo = element("button", { type: "button", className: "quiet icon", title: "Reset" }, "↺");
  undo.setAttribute("aria-label", `Reset ${name}`);
  undo.addEventListener("click", () => {
    reset();
    onReset();
    input.focus();
  });
  const check = () => input.setCustomValidity(isWithin(input, type) ? "" : problemOf(name, type));
  const problem = () => input.validationMessage;
  const mark = (is) => input.setAttribute("aria-invalid", String(is));
  reset();
  const row = rowOf(name, description, type, standard, input, undo);
  return { name, row, value, isChanged, set, reset, check, problem, mark };
}

function isWithin(input, { exclusiveMinimum }) {
  const { badInput, stepMismatch, rangeUnderflow, rangeOverflow } = input.validity;
  if (badInput || stepMismatch || rangeUnderflow || rangeOverflow) return false;
  return input.value === "" || !(Number(input.value) <= exclusiveMinimum);
}

function problemOf(name, type) {
  return `${name} must be a ${type.type === "integer" ? "whole " : ""}number, ${rangeOf(type)}.`;
}

function rowOf(name, description, type, standard, input, undo) {
  const words = name.split(/(?<=_)/).flatMap((word) => [word, element("wbr")]);
  const label = element("label", {}, ...words);
  label.htmlFor = input.id;
  const meaning = element("p", { className: "small", id: `${input.id}-meaning` });
  meaning.append(description.replaceAll("`", ""), " ", limitsOf(type, standard));
  input.setAttribute("aria-describedby", meaning.id);
  return element("div", { className: "parameter" }, label, input, undo, meaning);
}

function inputOf(type, standard, name) {
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
    placeholder: standard === "" ? "random" : String(standard),
    inputMode: type.type === "integer" ? "numeric" : "decimal",
  });
}

/** Null of a field that was left empty. */
function valueOf(input, type) {
  if (type.type === "boolean") return input.checked;
  if (type.enum) return input.value;
  if (type.type === "string") return input.value.trim() || null;
  return input.value === "" ? null : Number(input.value);
}

function limitsOf(type, standard) {
  const range = type.maximum === undefined ? "" : `${rangeOf(type)}, `;
  return `(${range}default ${standard === "" ? "random" : standard})`;
}

function rangeOf({ minimum, exclusiveMinimum, maximum }) {
  return `${minimum ?? `above ${exclusiveMinimum}`} to ${maximum}`;
}
