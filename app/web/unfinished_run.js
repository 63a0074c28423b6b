/** A speech in the history's database while it comes, so that closing the page loses none of it. */

const EVERY_MS = 300;

export class UnfinishedRun {
  /** Whether the page is being closed: what has been kept is for the next one. */
  left = false;
  _kept = 0; // pieces

  /**
   * @param {import("./run_store.js").RunStore} store
   * @param {import("./playback.js").Playback} playback
   * @param {() => import("./run_store.js").Run} describe the run as it is at this moment
   */
  constructor(store, playback, describe) {
    this._store = store;
    this._playback = playback;
    this._describe = describe;
    this._listening = new AbortController();
    addEventListener("pagehide", () => this._leave(), this._listening);
    this._saving = this._begin();
    this._timer = setInterval(() => this._save(), EVERY_MS);
  }

  /** Resolves to what it is kept under; undefined if it is not kept. */
  async end() {
    this._listening.abort();
    clearInterval(this._timer);
    await this._saving;
    return this._id;
  }

  async _begin() {
    this._id = await this._store.begin(this._describe());
    this._saving = null;
  }

  /** What has come since the last time. */
  _save() {
    const fresh = this._playback.pieces.slice(this._kept);
    if (this._saving || this._id === undefined || !fresh.length) return;
    this._saving = this._extend(new Blob(fresh));
    this._kept += fresh.length;
  }

  async _extend(sound) {
    const kept = await this._store.extend({ ...this._describe(), id: this._id }, this._kept, sound);
    if (!kept) clearInterval(this._timer); // a later part without this one would be no sound
    this._saving = null;
  }

  _leave() {
    this.left = true;
    this._save();
  }
}
