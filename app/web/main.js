/** The page connects its parts, which own all state. */

import { Api, UNREACHABLE } from "./api.js";
import { byId, element, say, showPairs } from "./dom.js";
import { statsOf, statRows } from "./run_stats.js";
import { format, ranked, whenHeard } from "./formats.js";
import { History } from "./history.js";
import { KeyDialog } from "./key_dialog.js";
import { Key } from "./api_key.js";
import { Models } from "./models.js";
import { Parameters } from "./parameters.js";
import { Playback } from "./playback.js";
import { Snippets } from "./snippets.js";
import { Status } from "./status.js";
import { Voices } from "./voices.js";
import { Waveform } from "./waveform.js";

const SAMPLE = "This is how I sound.";
const SHORTEST_S = 6;

class Page {
  constructor() {
    this._audio = byId("audio");
    this._text = byId("text");
    this._format = byId("format");
    this._playback = null;
    this._limit = Infinity;
    this._loaded = false;
    this._obstacle = ""; // to asking at all
    this._failure = ""; // of the playback
    this._api = new Api(new Key(), () => this._keyDialog.refuse());
    this._history = new History(byId("runs"));
    this._waveform = new Waveform(byId("waveform"), (to) => this._seek(to));
    this._snippets = new Snippets(byId("snippets"), byId("reveal"), this._api);
    this._parameters = new Parameters(byId("parameters"), byId("changed"));
    this._models = new Models(this._text);
    this._voices = new Voices(byId("voices"), this._api, (id) => this._hear(id));
    this._keyDialog = new KeyDialog(this._api, () => this._keyChanged());
    const places = { root: byId("status"), pill: byId("service"), notice: byId("notice") };
    this._status = new Status(places, this._api, () => this._reachedAgain());
    this._offerFormats(["fmp4"]);
    this._listen();
    this._showFigures();
    this._drawOften();
  }

  begin() {
    byId("parameters-details").open = matchMedia("(min-width: 60rem)").matches;
    if (this._api.key.value) this._load();
    else this._keyDialog.open();
  }

  _listen() {
    const update = () => this._requestChanged();
    this._parameters.onchange = () => {
      this._setObstacle(this._obstacle && this._parameters.problem);
      update();
    };
    this._voices.onchange = update;
    this._models.onchange = update;
    for (const input of [this._text, this._format, byId("reveal")]) {
      input.addEventListener("input", update);
    }
    byId("speech").addEventListener("submit", (event) => {
      event.preventDefault();
      this._speakText();
    });
    byId("stop").addEventListener("click", () => this._stop());
    document.addEventListener("keydown", (event) => this._shortcut(event));
    for (const name of ["dragover", "drop"]) document.addEventListener(name, refuseFiles);
  }

  _shortcut(event) {
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      if (!event.repeat) this._speakText();
    } else if (event.key === "Escape") this._stop();
    else return;
    event.preventDefault();
  }

  // --- server state ----------------------------------------------------------------------------

  _keyChanged() {
    this._status.refresh();
    this._requestChanged();
    if (this._api.key.value) this._load();
    else this._voices.clear();
  }

  _reachedAgain() {
    if (this._obstacle === UNREACHABLE) this._obstacle = "";
    if (this._failure === UNREACHABLE) this._failure = "";
    this._showFailure();
    this._voices.quiet();
    if (this._api.key.value && !this._loaded) this._load();
  }

  async _load() {
    this._setObstacle("");
    try {
      const [schema, models] = await Promise.all([
        this._api.get("openapi.json"),
        this._api.get("v1/models"),
        this._voices.refresh(),
      ]);
      const { parameters } = schema.paths["/tts/generate"].get;
      const schemaOf = (name) => parameters.find((one) => one.name === name).schema;
      this._limit = schemaOf("text")["x-max-length"];
      this._offerFormats(schemaOf("format").anyOf[0].enum);
      this._parameters.show(parameters);
      const own = models.data.filter(({ id, root }) => id === root);
      this._models.show(own, schemaOf("language").default);
      this._loaded = true;
    } catch (error) {
      this._setObstacle(error.message);
    }
  }

  _offerFormats(names) {
    const options = ranked(names).map((name) =>
      element("option", { value: name }, format(name).label),
    );
    const chosen = this._format.length > 1 && this._format.value;
    this._format.replaceChildren(...options);
    if (names.includes(chosen)) this._format.value = chosen;
    this._requestChanged();
  }

  // --- speaking --------------------------------------------------------------------------------

  get _request() {
    const request = { text: this._text.value, format: this._format.value };
    if (this._voices.chosen) request.voice_id = this._voices.chosen;
    return { ...request, ...this._models.chosen, ...this._parameters.changed };
  }

  _requestChanged() {
    const request = this._request;
    say(byId("format-note"), whenHeard(request));
    this._snippets.show(request, format(request.format).ending, this._parameters.problem);
    const length = [...this._text.value].length; // code points, as the server counts
    const limit = Number.isFinite(this._limit) ? ` of ${this._limit.toLocaleString("en")}` : "";
    say(byId("count"), `${length.toLocaleString("en")}${limit} characters`);
    byId("count").classList.toggle("over", length > this._limit);
  }

  _speakText() {
    this._speak(this._request);
  }

  _hear(voice) {
    const { voice_id: _, ...request } = this._request;
    this._speak({ ...request, text: SAMPLE, ...(voice && { voice_id: voice }) });
  }

  async _speak(request) {
    if (!this._api.key.value && !(await this._keyDialog.ask())) return;
    if (this._parameters.problem) {
      this._setObstacle(this._parameters.problem);
      this._parameters.pointOut();
      return;
    }
    this._obstacle = "";
    this._voices.quiet();
    this._keepingFocus(() => this._release());
    const key = this._api.key.value;
    const playback = new Playback(this._api, request, this._audio);
    this._playback = playback;
    playback.onchange = () => this._showState(playback);
    this._showState(playback);
    await playback.speak();
    this._offerDownload(playback);
    if (playback.error?.status === 401 && this._api.key.value !== key) this._speak(request);
    if (playback.error?.code === "unreachable") this._status.refresh(); // so that its return is noticed
    if (playback.error?.code === "voice_not_found") this._voices.refresh(); // another tab has deleted it
  }

  _stop() {
    const playback = this._playback;
    if (playback && playback.state !== "over") this._keepingFocus(() => playback.stop());
  }

  _release() {
    this._playback?.dispose();
    this._audio.hidden = true;
    const link = byId("download");
    URL.revokeObjectURL(link.href);
    link.hidden = true;
    link.removeAttribute("href");
  }

  _offerDownload(playback) {
    if (!playback.file || playback !== this._playback) return;
    const link = byId("download");
    link.href = URL.createObjectURL(playback.file);
    link.download = `speech${playback.incomplete ? "-incomplete" : ""}.${playback.format.ending}`;
    link.hidden = false;
  }

  _seek(to) {
    if (this._audio.src && this._audio.seekable.length) this._audio.currentTime = to;
  }

  // --- display of a playback -------------------------------------------------------------------

  _showState(playback) {
    if (playback !== this._playback) return;
    say(byId("state"), stateOf(playback));
    this._failure = playback.error?.message ?? playback.warning;
    this._showFailure();
    this._keepingFocus(() => {
      byId("stop").disabled = playback.state === "over";
    });
    showPairs(byId("answer"), playback.answer ? answerPairs(playback.answer) : []);
    if (playback.state === "over" && playback.times.firstByte !== null) this._history.add(statsOf(playback));
    this._waveform.describe(`${playback.peaks.seconds.toFixed(1)} s of sound, ${stateOf(playback)}`);
  }

  _setObstacle(reason) {
    this._obstacle = reason;
    this._showFailure();
  }

  _showFailure() {
    say(byId("failure"), this._obstacle || this._failure);
  }

  /** Makes a change; moves the focus to Speak if the focused element is then hidden or disabled. */
  _keepingFocus(change) {
    const { activeElement } = document;
    change();
    if (activeElement?.matches("[hidden], :disabled")) byId("speak").focus();
  }

  _drawOften() {
    const draw = () => {
      this._showFigures();
      requestAnimationFrame(draw);
    };
    requestAnimationFrame(draw);
    this._audio.addEventListener("timeupdate", () => this._playback?.observe()); // hidden pages draw nothing
  }

  _showFigures() {
    const playback = this._playback;
    playback?.observe();
    this._waveform.draw(playback?.peaks.values ?? [], playback ? this._position(playback) : 0, widthOf(playback));
    const pairs = playback ? statRows(statsOf(playback)) : statRows(NOTHING);
    if (String(pairs) !== this._shownFigures) showPairs(byId("figures"), pairs);
    this._shownFigures = String(pairs);
    say(byId("clock"), playback ? clock(this._position(playback), playback.peaks.seconds) : "");
  }

  /** The position of the player, or of the audio element on replay. */
  _position(playback) {
    return playback.url ? this._audio.currentTime : playback.player.position;
  }
}

const NOTHING = { format: "", firstByte: null, firstSound: null, realTimeFactor: null, audio: 0, underruns: 0 };

/** Of the waveform, in seconds: the sound's, but while it comes, a short one leaves room for more. */
function widthOf(playback) {
  const seconds = playback?.peaks.seconds || SHORTEST_S;
  return playback?.state === "streaming" ? Math.max(SHORTEST_S, seconds) : seconds;
}

function stateOf(playback) {
  if (playback.stopped) return "Stopped.";
  if (playback.error && !playback.peaks.seconds) return "Nothing was made.";
  if (playback.error) return playback.state === "playing" ? "Playing what has come." : "Not complete.";
  if (playback.unplayable) return playback.state === "over" ? "Made, but not heard." : "Being made, but not heard…";
  return {
    asking: "Waiting for the first sound…",
    streaming: "Speaking, while the rest is being made…",
    playing: "Complete; playing…",
    over: "Done.",
  }[playback.state];
}

/** What is dropped beside the place for it would be opened by the browser, in place of the page. */
function refuseFiles(event) {
  if (event.defaultPrevented || !event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = "none";
}

function answerPairs({ requestId, model, notice }) {
  const pairs = [
    ["Model", model],
    ["Request", requestId],
    ["Notice", notice],
  ];
  return pairs.filter(([, value]) => value);
}

function clock(position, total) {
  const written = (seconds) =>
    `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
  return `${written(position)} / ${written(total)}`;
}

new Page().begin();
