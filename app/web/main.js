/** The page connects its parts, which own all state. */

import { AddVoice } from "./add_voice.js";
import { Api, UNREACHABLE } from "./api.js";
import { Key, takeKeyFromAddress } from "./api_key.js";
import { byId, element, say } from "./dom.js";
import { Draft } from "./draft.js";
import { KNOWN, best, format, ranked, whenHeard } from "./formats.js";
import { History } from "./history.js";
import { KeyDialog } from "./key_dialog.js";
import { Models } from "./models.js";
import { Parameters } from "./parameters.js";
import { isSample } from "./presets.js";
import { Snippets } from "./snippets.js";
import { Speaker } from "./speaker.js";
import { Status } from "./status.js";
import { nameOf } from "./voice_names.js";
import { Voices } from "./voices.js";

const SAMPLE = "This is how I sound.";
const BEST = "best";
const WIDE = "(min-width: 60rem)";

class Page {
  constructor() {
    this._text = byId("text");
    this._format = byId("format");
    this._formats = KNOWN; // until the server says which it makes
    this._limit = Infinity;
    this._loaded = false;
    this._api = new Api(new Key(), () => this._keyDialog.refuse());
    this._history = new History({
      onHear: (run, sound) => this._speaker.replay(run, sound),
      onUse: (request) => this._use(request),
    });
    this._snippets = new Snippets(byId("snippets"), byId("reveal"), this._api);
    this._parameters = new Parameters((sample) => this._offerSample(sample));
    this._models = new Models(this._text);
    this._addVoice = new AddVoice(this._api, {
      onReplace: (id) => this._voices.keep(id),
      onAdded: (id) => this._voiceAdded(id),
    });
    this._voices = new Voices(byId("voices"), this._api, {
      onHear: (id) => this._hear(id),
      onAdd: () => this._addVoice.open(),
    });
    this._keyDialog = new KeyDialog(this._api, () => this._keyChanged());
    const places = { root: byId("status"), pill: byId("service"), notice: byId("notice") };
    this._status = new Status(places, this._api, () => this._reachedAgain());
    this._speaker = new Speaker(this._api, this._status);
    this._draft = new Draft(() => this._choices);
    this._restore(Draft.kept());
    this._listen();
  }

  /** @param {string} key of the link that opened the page; empty if it had none */
  begin(key) {
    byId("voices-details").open = matchMedia(WIDE).matches;
    if (key && key !== this._api.key.value) this._keyDialog.useFromLink(key);
    if (this._api.key.value) this._load();
    else if (!key) this._keyDialog.open();
  }

  _listen() {
    const update = () => this._requestChanged();
    this._parameters.onchange = () => {
      if (!this._parameters.problem && this._pointedOut) this._speaker.obstacle = "";
      update();
    };
    this._voices.onchange = () => {
      this._models.suggest(this._voices.language);
      update();
    };
    this._models.onchange = () => {
      if (this._models.current) this._parameters.adapt(this._models.current);
      update();
    };
    for (const input of [this._text, this._format, byId("reveal")]) {
      input.addEventListener("input", update);
    }
    byId("details").addEventListener("toggle", update);
    byId("speech").addEventListener("submit", (event) => {
      event.preventDefault();
      this._speak(this._request);
    });
    this._speaker.onbegun = (playback) => {
      if (playback.request.text !== SAMPLE) this._history.begin(playback); // else a voice is tried
    };
    this._speaker.onended = (playback) => this._history.end(playback);
    this._speaker.onfailed = (playback) => this._failed(playback);
    document.addEventListener("keydown", (event) => this._shortcut(event));
    for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => this._dropped(event));
    addEventListener("hashchange", () => {
      const key = takeKeyFromAddress();
      if (key) this._keyDialog.useFromLink(key);
    });
    matchMedia(WIDE).addEventListener("change", ({ matches }) => {
      byId("voices-details").open = matches;
    });
  }

  _shortcut(event) {
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      if (!event.repeat && !byId("speak").disabled) this._speak(this._request);
    } else if (event.key === "Escape") this._speaker.stop();
    else return;
    event.preventDefault();
  }

  /** A file that is dropped anywhere may become a voice; the browser would open it instead. */
  _dropped(event) {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    if (event.type === "drop" && event.dataTransfer.files.length) this._addVoice.take(event.dataTransfer.files);
  }

  // --- what is chosen ---------------------------------------------------------------------------

  /** To be kept for the next visit. */
  get _choices() {
    return {
      text: this._text.value,
      format: this._format.value,
      voice_id: this._voices.wanted,
      ...this._models.wanted,
      parameters: this._parameters.wanted,
    };
  }

  _restore({ text, format: name, voice_id: voice, model, language, parameters }) {
    if (typeof text === "string") this._text.value = text;
    this._offerFormats(this._formats, name);
    this._voices.wanted = voice ?? "";
    this._models.wanted = { model, language };
    this._parameters.wanted = parameters ?? {};
  }

  /** As in an earlier request. */
  _use({ text, format: name, voice_id: voice, model, language, ...parameters }) {
    this._text.value = text;
    this._format.value = name;
    this._voices.choose(voice ?? "");
    this._models.wanted = { model, language };
    this._parameters.wanted = parameters;
    this._requestChanged();
    this._text.focus();
  }

  get _request() {
    const name = this._format.value === BEST ? best(this._formats) : this._format.value;
    const request = { text: this._text.value, format: name };
    if (this._voices.chosen) request.voice_id = this._voices.chosen;
    return { ...request, ...this._models.chosen, ...this._parameters.changed };
  }

  _requestChanged() {
    const request = this._request;
    say(byId("format-note"), whenHeard(request));
    this._format.title = whenHeard(request);
    if (byId("details").open) this._snippets.show(request, this._parameters.problem);
    this._showLength();
    this._draft.changed();
  }

  /** In code points, as the server counts. */
  _showLength() {
    const length = [...this._text.value].length;
    const over = length - this._limit;
    const limit = Number.isFinite(this._limit) ? ` of ${number(this._limit)}` : "";
    const excess = over > 0 ? `: ${number(over)} too many` : "";
    say(byId("count"), `${number(length)}${limit} characters${excess}`);
    byId("count").classList.toggle("over", over > 0);
    byId("speak").disabled = over > 0;
  }

  _offerSample(sample) {
    if (!isSample(this._text.value) || this._models.chosen.language) return;
    this._text.value = sample;
    this._requestChanged();
  }

  // --- server state -----------------------------------------------------------------------------

  _keyChanged() {
    this._status.refresh();
    this._requestChanged();
    if (this._api.key.value) this._load();
    else this._voices.clear();
  }

  _reachedAgain() {
    this._speaker.forgive(UNREACHABLE);
    this._voices.quiet();
    if (this._api.key.value && !this._loaded) this._load();
  }

  async _load() {
    this._speaker.obstacle = "";
    try {
      const [schema, models] = await Promise.all([
        this._api.get("openapi.json"),
        this._api.get("v1/models"),
        this._voices.refresh(),
      ]);
      const { parameters } = schema.paths["/tts/generate"].get;
      const schemaOf = (name) => parameters.find((one) => one.name === name).schema;
      this._limit = schemaOf("text")["x-max-length"];
      this._offerFormats(schemaOf("format").anyOf[0].enum, this._format.value);
      this._parameters.show(parameters);
      const own = models.data.filter(({ id, root }) => id === root);
      this._models.show(own, schemaOf("language").default);
      this._addVoice.offerLanguages(this._models.languages);
      this._loaded = true;
    } catch (error) {
      this._speaker.obstacle = error.advice ?? error.message;
    }
  }

  _offerFormats(names, chosen) {
    this._formats = names;
    const options = ranked(names).map((name) => element("option", { value: name }, format(name).label));
    this._format.replaceChildren(element("option", { value: BEST }, "Best for this browser"), ...options);
    if (names.includes(chosen)) this._format.value = chosen;
    this._requestChanged();
  }

  async _voiceAdded(id) {
    this._voices.keep(id);
    try {
      await this._voices.refresh();
    } catch (error) {
      this._speaker.obstacle = error.message;
    }
    this._voices.choose(id);
    this._voices.say(`“${nameOf(id)}” is added and chosen.`);
  }

  // --- speaking ---------------------------------------------------------------------------------

  _hear(voice) {
    const { voice_id: _, ...request } = this._request;
    this._speak({ ...request, text: SAMPLE, ...(voice && { voice_id: voice }) });
  }

  async _speak(request) {
    if (!this._api.key.value && !(await this._keyDialog.ask())) return;
    this._pointedOut = Boolean(this._parameters.problem);
    if (this._pointedOut) {
      this._speaker.obstacle = this._parameters.problem;
      this._parameters.pointOut();
      return;
    }
    this._voices.quiet();
    this._keyAsked = this._api.key.value;
    this._speaker.speak(request);
  }

  _failed({ error, request }) {
    if (error.status === 401 && this._api.key.value !== this._keyAsked) this._speak(request);
    if (error.code === "unreachable") this._status.refresh(); // so that its return is noticed
    if (error.code === "voice_not_found") this._voices.refresh(); // another tab has deleted it
  }
}

const number = (value) => value.toLocaleString("en");

const key = takeKeyFromAddress(); // before anything else may fail
new Page().begin(key);
