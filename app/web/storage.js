/** Text in this browser's storage, where it is not blocked by the browser's settings. */

/** @param {string} place @returns {string} empty if there is none */
export const read = (place) => attempt((storage) => storage.getItem(place)) ?? "";

/** @param {string} place @param {string} value */
export const write = (place, value) => attempt((storage) => storage.setItem(place, value));

/** @param {string} place */
export const remove = (place) => attempt((storage) => storage.removeItem(place));

function attempt(use) {
  try {
    return use(localStorage);
  } catch {
    return null; // blocked, or full
  }
}
