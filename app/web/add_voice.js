/** The dialog that adds a voice: record or choose, trim, listen, name, send. */

import { Clip } from "./clip.js";
import { confirm } from "./confirm.js";
import { byId, element, say } from "./dom.js";
import { Microphone } from "./microphone.js";
import { ENDINGS, nameOf, voiceNameOf } from "./voice_names.js";

const UNREADABLE = "This browser cannot show the recording; the server will say whether it can be used.";
const READ =
  "The old lighthouse keeper smiled and poured two cups of tea. “You came just in time,” he said. “Tonight the fog will be so thick that even the gulls stay at home. Shall I tell you a story?”";

export class AddVoice {
  /**
   * @param {import("./api.js").Api} api
   * @param {{onReplace: (id: string) => void, onAdded: (id: string) => void}} reactions
   */
  constructor(api, { onReplace, onAdded }) {
    this._api = api;
    this._onReplace = onReplace;
    this._onAdded = onAdded;
    this._dialog = byId("add-dialog");
    this._sound = new Audio();
    this._listen();
    say(byId("add-read"), READ);
    byId("upload").accept = ENDINGS.join();
  }

  /** That the voice may have. @param {string[][]} languages codes and names */
  offerLanguages(languages) {
    const options = [["", "Not stated"], ...languages];
    byId("add-language").replaceChildren(...options.map(([value, name]) => element("option", { value }, name)));
    byId("add-language-row").hidden = languages.length < 2;
  }

  open() {
    this._begin();
    if (!this._dialog.open) this._dialog.showModal();
  }

  /** Goes on with the first of the files that were dropped, or chosen. @param {FileList} files */
  async take([file, ...others]) {
    this.open();
    try {
      const id = voiceNameOf(file.name);
      await this._edit(await Clip.of(file), id);
      if (others.length) say(byId("add-failure"), `One voice at a time: this is ${file.name}. Add the others after it.`);
    } catch (error) {
      say(byId("add-failure"), error.message);
    }
  }

  _listen() {
    const on = (id, event, react) => byId(id).addEventListener(event, react);
    on("record", "click", () => this._record());
    on("record-stop", "click", () => this._microphone?.stop());
    on("upload", "change", ({ target }) => {
      if (target.files.length) this.take(target.files);
      target.value = "";
    });
    on("add-from", "input", () => this._trim("from"));
    on("add-to", "input", () => this._trim("to"));
    on("add-play", "click", () => this._play());
    on("add-again", "click", () => this._begin());
    on("add-cancel", "click", () => this._dialog.close());
    on("add-form", "submit", (event) => {
      event.preventDefault();
      this._send();
    });
    this._dialog.addEventListener("close", () => this._quit());
    for (const event of ["ended", "pause"]) this._sound.addEventListener(event, () => this._stopped());
  }

  _begin() {
    this._quit();
    this._step("add-source");
    say(byId("add-failure"), "");
  }

  /** Ends a recording and the sound. */
  _quit() {
    this._clip = null;
    this._microphone?.stop();
    this._microphone = null;
    this._silence();
  }

  _step(shown) {
    for (const id of ["add-source", "add-recording", "add-edit"]) byId(id).hidden = id !== shown;
    for (const id of ["add-send", "add-again"]) byId(id).hidden = shown !== "add-edit";
    byId("add-progress").hidden = true;
  }

  async _record() {
    const microphone = (this._microphone = new Microphone());
    microphone.onlevel = (level, seconds) => {
      byId("add-level").value = level;
      say(byId("add-clock"), `${seconds.toFixed(0)} s`);
    };
    say(byId("add-failure"), "");
    try {
      await microphone.start();
    } catch (error) {
      say(byId("add-failure"), error.message);
      return;
    }
    const recorded = microphone.recorded();
    if (microphone !== this._microphone) microphone.stop(); // the dialog was closed before
    else this._step("add-recording");
    byId("record-stop").focus();
    const file = await recorded;
    if (microphone !== this._microphone) return;
    const clip = await Clip.of(file);
    clip.trimSilence();
    await this._edit(clip, "");
  }

  /** @param {Clip} clip @param {string} id that its file's name suggests */
  async _edit(clip, id) {
    this._clip = clip;
    this._ending = id.slice(nameOf(id).length);
    this._step("add-edit");
    byId("add-trim").hidden = !clip.decoded;
    byId("add-name").value = nameOf(id);
    for (const end of ["from", "to"]) {
      const input = byId(`add-${end}`);
      input.max = String(clip.seconds);
      input.value = String(clip[end]);
    }
    this._showClip();
    if (!clip.decoded) say(byId("add-failure"), UNREADABLE);
    byId("add-name").focus();
  }

  _trim(end) {
    const clip = this._clip;
    clip[end] = Number(byId(`add-${end}`).value);
    if (Number(byId("add-to").max) - Number(byId("add-to").value) < 0.05) clip.to = clip.seconds;
    this._silence();
    this._showClip();
  }

  _showClip() {
    const clip = this._clip;
    say(byId("add-failure"), clip.problem);
    byId("add-send").disabled = Boolean(clip.problem);
    say(byId("add-length"), `${Math.max(0, clip.to - clip.from).toFixed(1)} s of ${clip.seconds.toFixed(1)} s`);
    if (clip.decoded) draw(byId("add-waveform"), clip);
  }

  _play() {
    if (!this._sound.paused) {
      this._silence();
      return;
    }
    this._url = URL.createObjectURL(this._clip.wav());
    this._sound.src = this._url;
    this._sound.play();
    say(byId("add-play"), "■ Stop");
  }

  _silence() {
    if (!this._url) return;
    this._sound.pause();
    this._stopped();
  }

  _stopped() {
    say(byId("add-play"), "▶ Listen");
    if (this._url) URL.revokeObjectURL(this._url);
    this._url = "";
  }

  async _send() {
    const clip = this._clip;
    if (!clip) return;
    say(byId("add-failure"), "");
    byId("add-send").disabled = true;
    try {
      const asItIs = clip.isWhole && this._ending;
      const code = byId("add-language").value;
      const name = byId("add-name").value.trim() + (code && `.${code}`);
      const id = voiceNameOf(name + (asItIs ? this._ending : ".wav"));
      const added = await this._upload(asItIs ? clip.file : clip.wav(), id);
      if (added && this._clip === clip) this._dialog.close();
      if (added) this._onAdded(added.voice_id);
    } catch (error) {
      say(byId("add-failure"), error.advice ?? error.message);
    }
    byId("add-progress").hidden = true;
    byId("add-send").disabled = false;
  }

  /** What the server says of the new voice; null if the one of that name is to stay. */
  async _upload(file, name) {
    const progress = byId("add-progress");
    progress.hidden = false;
    const onProgress = (share) => {
      progress.value = share;
    };
    try {
      return await this._api.uploadVoice(file, { name, replace: false, onProgress });
    } catch (error) {
      if (error.code !== "voice_exists") throw error;
    }
    if (!(await confirm(`There is a voice “${nameOf(name)}” already.`, "Replace it"))) return null;
    this._onReplace(name);
    return this._api.uploadVoice(file, { name, replace: true, onProgress });
  }
}

/** The waveform; what is left out is pale. */
function draw(canvas, clip) {
  const scale = devicePixelRatio;
  const width = (canvas.width = Math.round(canvas.clientWidth * scale));
  const height = (canvas.height = Math.round(canvas.clientHeight * scale));
  const context = canvas.getContext("2d");
  const style = getComputedStyle(canvas);
  const step = 3 * scale;
  const peaks = clip.peaks(Math.max(1, Math.floor(width / step)));
  const loudest = Math.max(0.05, ...peaks);
  for (const [n, peak] of peaks.entries()) {
    const at = (n / peaks.length) * clip.seconds;
    const is = at >= clip.from && at <= clip.to;
    context.fillStyle = style.getPropertyValue(is ? "--heard" : "--to-come");
    const tall = Math.max(scale, (peak / loudest) * height * 0.9);
    context.fillRect(n * step, (height - tall) / 2, step * 0.66, tall);
  }
}
