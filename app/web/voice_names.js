/** Names of voices: as people read them, and valid ids from the names of recordings. */

export const ENDINGS = [".wav", ".mp3", ".flac", ".ogg", ".m4a", ".webm", ".opus"];

const ENDING = new RegExp(`(?:${ENDINGS.join("|").replaceAll(".", "\\.")})$`, "i");
const CODE = /.\.[a-z]{2,3}(?:[-_][a-z\d]+)*$/i;
const UNUSABLE = /[^\p{L}\p{N} ._-]/gu;
const LONGEST = 128; // in characters
const LONGEST_BYTES = 255;

/** A voice's name without its ending, and without the code of its `language`, as in `giulia.it.wav`. */
export function nameOf(id, language = "") {
  const name = id.replace(ENDING, "");
  const code = name.lastIndexOf(".");
  const isCode = language && code > 0 && name.slice(code + 1).toLowerCase().split(/[-_]/)[0] === language;
  return isCode ? name.slice(0, code) : name;
}

/** Whether a voice that has a language has it in its name. */
export function hasCode(id) {
  return CODE.test(id.replace(ENDING, ""));
}

/** Of a code of ISO 639. */
export function languageName(code) {
  return new Intl.DisplayNames("en", { type: "language", fallback: "code" }).of(code);
}

/** The name nearest to a file's that a voice may have. Raises where its ending is of no recording. */
export function voiceNameOf(fileName) {
  const ending = ENDING.exec(fileName)?.[0];
  if (!ending) {
    const endings = `${ENDINGS.slice(0, -1).join(", ")} or ${ENDINGS.at(-1)}`;
    throw new Error(`“${fileName}” is no recording that can be used: its name must end in ${endings}.`);
  }
  const stem = fileName.slice(0, -ending.length).normalize("NFC").replace(UNUSABLE, "_");
  return (shortened(stem.replace(/^\.+/, ""), ending.length) || "_") + ending;
}

function shortened(stem, reserved) {
  const letters = [...stem].slice(0, LONGEST - reserved);
  const bytes = () => new TextEncoder().encode(letters.join("")).length;
  while (bytes() > LONGEST_BYTES - reserved) letters.pop();
  return letters.join("");
}
