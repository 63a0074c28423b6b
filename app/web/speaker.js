/** Speaks requests one at a time, shows how each fares, and offers what was made. */

import { sentence } from "./api.js";
import { byId, say, showPairs } from "./dom.js";
import { Playback } from "./playback.js";
import { QueuePlace } from "./queue_place.js";
import { fileNameOf } from "./received.js";
import { Replay } from "./replay.js";
import { Retry } from "./retry.js";
import { RunChart } from "./run_chart.js";
import { statRows, statsOf } from "./run_stats.js";
import { Transport } from "./transport.js";

const NOTHING = { format: "", firstByte: null, firstSound: null, realTimeFactor: null, audio: 0, underruns: 0 };

export class Speaker {
  /** With a playback that asks. */
  onbegun = (playback) => {};
  /** With a playback of which nothing more will come. */
  onended = (playback) => {};
  /** With a playback that has failed. */
  onfailed = (playback) => {};
  /** A sentence about why nothing can be asked for; empty if it can. */
  _obstacle = "";
  _failure = ""; // of the playback
  _playback = null;

  /** @param {import("./api.js").Api} api @param {import("./status.js").Status} status */
  constructor(api, status) {
    this._api = api;
    this._status = status;
    this._audio = byId("audio");
    this._chart = new RunChart(byId("runs"));
    this._transport = new Transport();
    this._retry = new Retry(() => this.speak(this._playback.request));
    byId("stop").addEventListener("click", () => this.stop());
    status.onstatus = (answer) => this._queueMoved(answer);
    this._drawOften();
  }

  get obstacle() {
    return this._obstacle;
  }

  set obstacle(reason) {
    this._obstacle = reason;
    this._showFailure();
  }

  /** Takes back a message. */
  forgive(message) {
    if (this._obstacle === message) this._obstacle = "";
    if (this._failure === message) this._failure = "";
    this._showFailure();
  }

  async speak(request) {
    this._obstacle = "";
    const playback = new Playback(this._api, request, this._audio);
    this._take(playback);
    playback.onchange = () => this._showState(playback);
    this._place = new QueuePlace(request.model);
    this._status.hurried = true;
    this._showState(playback);
    setTimeout(() => playback.state === "asking" && this._status.refresh(), 200);
    this.onbegun(playback);
    await playback.speak();
    if (playback === this._playback) this._offerDownload(playback);
    this.onended(playback);
    if (playback.error) this.onfailed(playback);
    if (playback.error && playback === this._playback) this._retry.offer(playback.error);
  }

  /** @param {import("./run_store.js").Run} run @param {Blob} sound */
  replay(run, sound) {
    this._obstacle = "";
    this._take(() => new Replay(run, sound, this._audio));
    this._showState(this._playback);
    this._offerDownload(this._playback);
  }

  stop() {
    const playback = this._playback;
    if (!playback) return;
    if (playback.state !== "over") keepingFocus(() => playback.stop());
    else if (!playback.paused) playback.toggle();
  }

  /** In place of the one before, which is released first. */
  _take(next) {
    keepingFocus(() => {
      if (this._playback?.state !== "over") this._playback?.stop(); // what it has made is kept
      this._playback?.dispose();
      this._playback = typeof next === "function" ? next() : next;
      this._transport.show(this._playback);
      const link = byId("download");
      URL.revokeObjectURL(link.href);
      link.hidden = true;
      link.removeAttribute("href");
      this._retry.withdraw();
    });
  }

  _offerDownload(playback) {
    if (!playback.file) return;
    const link = byId("download");
    link.href = URL.createObjectURL(playback.file);
    link.download = fileNameOf(playback);
    link.hidden = false;
  }

  _queueMoved(status) {
    if (this._playback?.state !== "asking") return;
    this._place.update(status);
    this._showState(this._playback);
  }

  _showState(playback) {
    if (playback !== this._playback) return;
    const state = (playback.state === "asking" && this._place.text) || stateOf(playback);
    this._status.hurried = playback.state === "asking";
    const notice = playback.answer?.notice;
    say(byId("state"), notice ? `${state} ${sentence(notice)}` : state);
    this._failure = playback.error?.message ?? playback.warning;
    this._showFailure();
    keepingFocus(() => {
      byId("stop").disabled = playback.state === "over";
    });
    showPairs(byId("answer"), playback.answer ? answerPairs(playback.answer) : []);
    if (playback.state === "over" && playback.times.firstByte !== null) this._chart.add(statsOf(playback));
    this._transport.describe(`${playback.peaks.seconds.toFixed(1)} s of sound, ${state}`);
  }

  _showFailure() {
    say(byId("failure"), this._obstacle || this._failure);
  }

  _drawOften() {
    const draw = () => {
      this._draw();
      requestAnimationFrame(draw);
    };
    requestAnimationFrame(draw);
    this._audio.addEventListener("timeupdate", () => this._playback?.observe()); // hidden pages draw nothing
  }

  _draw() {
    const playback = this._playback;
    playback?.observe();
    this._transport.draw();
    const pairs = statRows(playback ? statsOf(playback) : NOTHING);
    if (String(pairs) !== this._shownFigures) showPairs(byId("figures"), pairs);
    this._shownFigures = String(pairs);
  }
}

/** Makes a change; moves the focus to Speak if the focused element is then hidden or disabled. */
function keepingFocus(change) {
  const { activeElement } = document;
  change();
  if (activeElement?.matches("[hidden], :disabled")) byId("speak").focus();
}

function stateOf(playback) {
  if (playback instanceof Replay) return "";
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

function answerPairs({ requestId, model, notice, queued }) {
  const pairs = [
    ["Model", model],
    ["Request", requestId],
    ["Waited", queued >= 0.01 && `${queued.toFixed(2)} s in the queue`],
    ["Notice", notice],
  ];
  return pairs.filter(([, value]) => value);
}
