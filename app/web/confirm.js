/** The question: a dialog that waits for yes or no. */

import { byId } from "./dom.js";

let last = Promise.resolve(false);

/**
 * Asks once the questions before are answered.
 * @param {string} text @param {string} yes what the button says @returns {Promise<boolean>}
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
