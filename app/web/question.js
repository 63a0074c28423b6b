/** The question: a dialog that waits for yes or no. */

import { byId } from "./dom.js";

/** @param {string} text @param {string} yes what the button says @returns {Promise<boolean>} */
export function ask(text, yes) {
  const dialog = byId("question");
  byId("question-text").textContent = text;
  byId("question-yes").textContent = yes;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
