/**
 * The history in the browser's database: a bounded number of runs, each with its sound.
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
 * @typedef {{id?: number, text: string, request: any, name: string, type: string, size: number,
 *   seconds: number, madeAt: number, incomplete: boolean, sound?: Blob}} Run
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

  /** The run as it is kept; with its sound, if that could not be stored. @returns {Promise<Run>} */
  async add(run, sound) {
    if (!this._database) return { ...run, sound };
    try {
      const transaction = this._database.transaction(["runs", "sounds"], "readwrite");
      const done = ended(transaction);
      const adding = transaction.objectStore("runs").add(run);
      adding.onsuccess = () => transaction.objectStore("sounds").put(sound, adding.result);
      await done;
      this.problem = "";
      return { ...run, id: adding.result };
    } catch {
      this.problem = FULL;
      return { ...run, sound };
    }
  }

  /** Null if it is there no more. @returns {Promise<Blob | null>} */
  async soundOf(run) {
    if (run.sound) return run.sound;
    try {
      return (await result(this._store("sounds", "readonly").get(run.id))) ?? null;
    } catch {
      return null;
    }
  }

  /** @param {Run[]} runs */
  async remove(runs) {
    const stored = runs.filter((run) => run.id !== undefined);
    if (!this._database || !stored.length) return;
    const transaction = this._database.transaction(["runs", "sounds"], "readwrite");
    const done = ended(transaction);
    for (const { id } of stored) {
      for (const name of ["runs", "sounds"]) transaction.objectStore(name).delete(id);
    }
    await done.catch(() => {}); // they are gone from the list, at least
    this.problem = "";
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
