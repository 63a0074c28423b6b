/** The last requests: a bar chart of their times to first sound, and a table. */

import { element } from "./dom.js";
import { formatted, seconds } from "./run_stats.js";

const MOST = 12;
const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 64;
const STEP = 24;

export class RunChart {
  _runs = [];

  /** @param {Element} root */
  constructor(root) {
    this._root = root;
    this._show();
  }

  /** @param {import("./run_stats.js").RunStats} figures of a run that is over */
  add(figures) {
    this._runs = [...this._runs, figures].slice(-MOST);
    this._show();
  }

  _show() {
    if (!this._runs.length) {
      this._root.replaceChildren(element("p", { className: "small" }, "None yet."));
      return;
    }
    this._root.replaceChildren(this._chart(), this._caption(), this._table());
  }

  _chart() {
    const longest = Math.max(...this._runs.map((run) => run.firstSound ?? 0), 0.001);
    const times = this._runs.map((run) => seconds(run.firstSound)).join(", ");
    const chart = svg("svg", {
      class: "chart",
      role: "img",
      viewBox: `0 0 ${MOST * STEP} ${HEIGHT}`,
      preserveAspectRatio: "xMinYMax",
      "aria-label": `Time to first sound of the last runs: ${times}`,
    });
    chart.append(...this._runs.map((run, n) => bar(run, n, longest)));
    return chart;
  }

  _caption() {
    const caption = element("p", { className: "small" }, "Time to the first sound, newest at the right");
    if (this._runs.some((run) => run.underruns)) {
      caption.append("; ", element("span", { className: "swatch" }), " with underruns");
    }
    caption.append(".");
    return caption;
  }

  _table() {
    const names = ["Format", "First sound", "Real-time factor", "Underruns"];
    const head = element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)));
    const rows = this._runs.toReversed().map((run) => {
      const cells = [run.format, ...formatted(run)];
      return element("tr", {}, ...cells.map((cell) => element("td", {}, cell)));
    });
    const table = element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
    return element("div", { className: "wide", tabIndex: 0, role: "group", "aria-label": "Last runs" }, table);
  }
}

function bar(run, n, longest) {
  const height = Math.max(2, ((run.firstSound ?? 0) / longest) * (HEIGHT - 4));
  const attributes = { x: n * STEP + 3, y: HEIGHT - height, width: STEP - 6, height, rx: 3 };
  const made = svg("rect", { ...attributes, class: run.underruns ? "uneven" : "even" });
  const title = svg("title", {});
  title.textContent = `${run.format}: ${seconds(run.firstSound)}, underruns: ${run.underruns}`;
  made.append(title);
  return made;
}

function svg(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  return made;
}
