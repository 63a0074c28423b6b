/** Draws peaks as they arrive, and the playhead. */

import { PEAKS_PER_S } from "./peaks.js";

const COLUMN = 3;
const QUIET = 0.2;

export class Waveform {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this._canvas = canvas;
    this._context = canvas.getContext("2d");
    this._shown = "";
  }

  /** @param {number[]} peaks @param {number} position @param {number} width both in seconds */
  draw(peaks, position, width) {
    const size = this._fit();
    this._seconds = width;
    const heard = Math.round((position / this._seconds) * size.width);
    const colors = colorsOf(this._canvas);
    const shown = [peaks.length, this._seconds, heard, size.width, ...colors].join();
    if (shown === this._shown) return;
    this._shown = shown;
    this._context.clearRect(0, 0, size.width, size.height);
    this._drawColumns(this._columns(peaks, size.width), heard, size, colors);
    const at = Math.min(heard, size.width - size.scale);
    if (position > 0) this._context.fillRect(at, 0, size.scale, size.height);
  }

  /** Sets the text for screen readers. */
  describe(text) {
    this._canvas.setAttribute("aria-label", `Waveform: ${text}`);
  }

  /** The loudest peak in each column. */
  _columns(peaks, width) {
    const columns = new Array(Math.floor(width / this._step)).fill(0);
    const share = columns.length / Math.max(1, this._seconds * PEAKS_PER_S);
    for (const [n, peak] of peaks.entries()) {
      const first = Math.floor(n * share);
      const end = Math.min(columns.length, Math.max(first + 1, Math.floor((n + 1) * share)));
      for (let column = first; column < end; column++) {
        columns[column] = Math.max(columns[column], peak);
      }
    }
    return columns;
  }

  _drawColumns(columns, heard, { height, scale }, [before, after]) {
    const bar = this._step * 0.66;
    const loudest = Math.max(QUIET, ...columns);
    for (const [n, peak] of columns.entries()) {
      const tall = Math.max(scale, (peak / loudest) * height * 0.95);
      const at = n * this._step;
      this._context.fillStyle = at < heard ? before : after;
      this._context.fillRect(at, (height - tall) / 2, bar, tall);
    }
  }

  /** The canvas has as many pixels as the screen gives it. */
  _fit() {
    const scale = window.devicePixelRatio;
    const width = Math.round(this._canvas.clientWidth * scale);
    const height = Math.round(this._canvas.clientHeight * scale);
    if (this._canvas.width !== width) this._canvas.width = width;
    if (this._canvas.height !== height) this._canvas.height = height;
    this._step = COLUMN * scale;
    return { width, height, scale };
  }
}

/** Before and after the playhead, as the style sheet has them, light or dark. */
function colorsOf(canvas) {
  const style = getComputedStyle(canvas);
  return ["--heard", "--to-come"].map((name) => style.getPropertyValue(name));
}
