/** A dialog that asks a yes/no question, or for a name. */

import { byId } from "./dom.js";

let last = Promise.resolve(null);

/**
 * Asks when earlier questions are answered.
 * @param {string} text @param {string} yes label of the button @returns {Promise<boolean>}
 */
export async function confirm(text, yes) {
  return (await asked(text, yes, null)) !== null;
}

/** Resolves to the name, or null. @param {string} value that it begins with @returns {Promise<string | null>} */
export const askName = (text, yes, value) => asked(text, yes, value);

function asked(...question) {
  last = last.then(() => shown(...question));
  return last;
}

function shown(text, yes, value) {
  const dialog = byId("question");
  const name = byId("question-name");
  name.hidden = name.disabled = value === null;
  name.value = value ?? "";
  byId("question-text").textContent = text;
  byId("question-yes").textContent = yes;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes" ? name.value.trim() : null), {
      once: true,
    });
  });
}
