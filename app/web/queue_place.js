/** How many requests are before one that waits, from the server's status. */

export class QueuePlace {
  /** Null where nothing is known yet. */
  before = null;

  /** @param {string | undefined} model of the request; the default one without */
  constructor(model) {
    this._model = model;
  }

  /** The queue is in order: no request comes to stand before one that waits already. */
  update({ models }) {
    const { waiting } = models.find(({ id }) => id === this._model) ?? models[0];
    this.before = Math.min(this.before ?? Infinity, Math.max(0, waiting - 1));
    this._waits = waiting > 0;
  }

  /** In a sentence; empty if the request does not wait in the queue. */
  get text() {
    if (this.before === null || !this._waits) return "";
    return this.before ? `Waiting: ${this.before} before you…` : "Waiting: you are next…";
  }
}
