/** The figures of a run: what was measured, as numbers and in words. */

/**
 * @typedef {{format: string, firstByte: number | null, firstSound: number | null,
 *   realTimeFactor: number | null, audio: number, underruns: number}} Figures
 * Times in seconds; null is what did not come about.
 */

/** @param {import("./run.js").Run} run @returns {Figures} */
export function figuresOf(run) {
  return {
    format: run.request.format,
    firstByte: run.times.firstByte,
    firstSound: run.times.firstSound,
    realTimeFactor: run.realTimeFactor,
    audio: run.peaks.seconds,
    underruns: run.player.underruns,
  };
}

/** @param {number | null} value */
export const seconds = (value) => (value === null ? "–" : `${value.toFixed(2)} s`);

/** First sound, real-time factor and underruns. @param {Figures} figures */
export function inWords({ firstSound, realTimeFactor, underruns }) {
  const factor = realTimeFactor === null ? "–" : realTimeFactor.toFixed(2);
  return [seconds(firstSound), factor, String(underruns)];
}

/** @param {Figures} figures @returns {string[][]} */
export function pairsOf(figures) {
  const [firstSound, factor, underruns] = inWords(figures);
  return [
    ["First sound", firstSound],
    ["First byte", seconds(figures.firstByte)],
    ["Real-time factor", factor],
    ["Audio", seconds(figures.audio)],
    ["Underruns", underruns],
  ];
}
