/**
 * The history in the browser's database: a bounded number of runs, each with its sound, and
 * unfinished ones with the parts of theirs.
 *
 * Listing them reads no sound. Where there is no database, or it is full, runs are kept until the
 * page is closed, and `problem` says so.
 */

const NAME = "chatterbox-tts";
export const MOST_RUNS = 500;
const MOST_BYTES = 200_000_000;

const ABSENT = "This browser keeps no history: it is lost when the page is closed.";
const FULL =
  "The browser's storage is full: the newest runs are lost when the page is closed. Clear the history to make room.";

/**
 * @typedef {{id?: number, text: string, request: any, name: string, size: number, seconds: number,
 *   madeAt: number, incomplete: boolean, unfinished?: boolean, sound?: Blob}} Run
 */

export class RunStore {
  /** A sentence; empty if all is kept. */
  problem = "";

  /** The newest first. @returns {Promise<Run[]>} */
  async list() {
    try {
      this._database = await opened();
      const runs = await result(this._store("runs", "readonly").getAll());
      return runs.reverse();
    } catch {
      this.problem = ABSENT;
      return [];
    }
  }

  /** Of an unfinished run; undefined if it cannot be kept. @returns {Promise<number | undefined>} */
  async begin(run) {
    const [id] = (await this._change(({ runs }) => [runs.add(run)])) ?? [];
    return id;
  }

  /** Whether the unfinished run is kept with this part of its sound. @param {number} number of it */
  async extend(run, number, part) {
    const change = ({ runs, sounds }) => [runs.put(run), sounds.put(part, [run.id, number])];
    return Boolean(await this._change(change));
  }

  /**
   * The run as it is kept; with its sound, if that could not be stored.
   * @param {Run} run with an id, if it was begun before @returns {Promise<Run>}
   */
  async add(run, sound) {
    if (!this._database) return { ...run, sound };
    const id = run.id ?? (await this.begin(run));
    const finish = ({ runs, sounds }) => [
      sounds.delete(partsOf(id)),
      runs.put({ ...run, id }),
      sounds.put(sound, id),
    ];
    const isKept = id !== undefined && Boolean(await this._change(finish));
    this.problem = isKept ? "" : FULL;
    return isKept ? { ...run, id } : { ...run, id, sound };
  }

  /** Null if it is there no more. @returns {Promise<Blob | null>} */
  async soundOf(run) {
    if (run.sound) return run.sound;
    try {
      const sounds = this._store("sounds", "readonly");
      if (!run.unfinished) return (await result(sounds.get(run.id))) ?? null;
      return new Blob(await result(sounds.getAll(partsOf(run.id))));
    } catch {
      return null;
    }
  }

  /** @param {{id?: number}[]} runs */
  async remove(runs) {
    const stored = runs.filter((run) => run.id !== undefined);
    if (!this._database || !stored.length) return;
    await this._change(({ runs, sounds }) =>
      stored.flatMap(({ id }) => [runs.delete(id), sounds.delete(id), sounds.delete(partsOf(id))]),
    ); // they are gone from the list, at least
    this.problem = "";
  }

  /** What the requests of one transaction result in; null if nothing is changed. */
  async _change(requests) {
    if (!this._database) return null;
    try {
      const transaction = this._database.transaction(["runs", "sounds"], "readwrite");
      const done = ended(transaction);
      const [runs, sounds] = ["runs", "sounds"].map((name) => transaction.objectStore(name));
      const asked = requests({ runs, sounds });
      await done;
      return asked.map((request) => request.result);
    } catch {
      return null;
    }
  }

  _store(name, mode) {
    return this._database.transaction(name, mode).objectStore(name);
  }
}

/** Those that are too many, or too large together. @param {Run[]} runs the newest first */
export function surplus(runs) {
  let bytes = 0;
  const first = runs.findIndex((run, n) => n >= MOST_RUNS || (bytes += run.size) > MOST_BYTES);
  return first < 0 ? [] : runs.slice(Math.max(first, 1));
}

/** Where the parts of a run's sound are, in their order. */
const partsOf = (id) => IDBKeyRange.bound([id], [id, []]);

function opened() {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore("runs", { keyPath: "id", autoIncrement: true });
    request.result.createObjectStore("sounds");
  };
  return result(request);
}

function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("blocked"));
  });
}

function ended(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(undefined);
    transaction.onabort = () => reject(transaction.error);
    transaction.onerror = () => {};
  });
}
