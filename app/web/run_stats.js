/** The measurements of a playback, as numbers and as text. */

/**
 * @typedef {{format: string, firstByte: number | null, firstSound: number | null,
 *   realTimeFactor: number | null, audio: number, underruns: number}} RunStats
 * Times in seconds; null if the event did not happen.
 */

/** @param {import("./playback.js").Playback} playback @returns {RunStats} */
export function statsOf(playback) {
  return {
    format: playback.request.format,
    firstByte: playback.times.firstByte,
    firstSound: playback.times.firstSound,
    realTimeFactor: playback.realTimeFactor,
    audio: playback.peaks.seconds,
    underruns: playback.player.underruns,
  };
}

/** @param {number | null} value */
export const seconds = (value) => (value === null ? "–" : `${value.toFixed(2)} s`);

/** First sound, real-time factor and underruns. @param {RunStats} figures */
export function formatted({ firstSound, realTimeFactor, underruns }) {
  const factor = realTimeFactor === null ? "–" : realTimeFactor.toFixed(2);
  return [seconds(firstSound), factor, String(underruns)];
}

/** @param {RunStats} figures @returns {string[][]} */
export function statRows(figures) {
  const [firstSound, factor, underruns] = formatted(figures);
  return [
    ["First sound", firstSound],
    ["First byte", seconds(figures.firstByte)],
    ["Real-time factor", factor],
    ["Audio", seconds(figures.audio)],
    ["Underruns", underruns],
  ];
}
