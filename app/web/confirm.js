/** A dialog that asks a yes/no question. */

import { byId } from "./dom.js";

let last = Promise.resolve(false);

/**
 * Asks when earlier questions are answered.
 * @param {string} text @param {string} yes label of the button @returns {Promise<boolean>}
 */
export function confirm(text, yes) {
  last = last.then(() => shown(text, yes));
  return last;
}

function shown(text, yes) {
  const dialog = byId("question");
  byId("question-text").textContent = text;
  byId("question-yes").textContent = yes;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
