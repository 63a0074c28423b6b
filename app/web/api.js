/** The server's API. Failures are raised as `ApiError`, whose message is a sentence to show. */

import { headerOf } from "./api_key.js";

export class ApiError extends Error {
  /**
   * `status` is 0 and `code` "unreachable" where there was no answer. `retryAfter`: in how many
   * seconds another try makes sense, as the server says; else null.
   */
  constructor(message, status = 0, code = "unreachable", retryAfter = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }

  /** With when to try again. */
  get advice() {
    return this.message + (this.retryAfter ? ` Try again in ${this.retryAfter} s.` : "");
  }
}

export const UNREACHABLE = "The server cannot be reached. It may have stopped, or the network is gone.";

export class Api {
  /** @param {import("./api_key.js").Key} key  @param {() => void} onRefused the key was not taken */
  constructor(key, onRefused) {
    this.key = key;
    this._onRefused = onRefused;
  }

  /** The address of a path, also below a proxy's prefix. */
  url(path) {
    return new URL(path, document.baseURI).href;
  }

  /** @returns {Promise<any>} */
  async get(path, signal) {
    return (await this.ask(path, { signal })).json();
  }

  /** An answer of any status, asked for without the key. */
  open(path) {
    return this._fetch(path, {});
  }

  /** Whether the server accepts this key; other errors are raised. */
  async accepts(value) {
    const answer = await this._fetch("voices", { headers: { "X-API-Key": headerOf(value) } });
    if (answer.ok) return true;
    if (answer.status === 401) return false;
    throw await failureOf(answer);
  }

  /** The start of an answer of audio. */
  speak(request, signal) {
    const headers = { "Content-Type": "application/json" };
    return this.ask("tts/generate", {
      method: "POST",
      headers,
      body: JSON.stringify(request),
      signal,
    });
  }

  /** The recording of a voice. */
  async recordingOf(id) {
    const answer = await this.ask(`voices/${encodeURIComponent(id)}`);
    return new Blob([await answer.arrayBuffer()]); // without a type, which browsers find out
  }

  /** What the server says of the voice under its new name. */
  async renameVoice(id, name) {
    const answer = await this.ask(`voices/${encodeURIComponent(id)}`, {
      method: "PATCH",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ voice_id: name }),
    });
    return answer.json();
  }

  /** Also sent while the page is being closed. */
  deleteVoice(id) {
    return this.ask(`voices/${encodeURIComponent(id)}`, { method: "DELETE", keepalive: true });
  }

  /** Uses XMLHttpRequest, because `fetch` reports no upload progress. */
  uploadVoice(file, { name, replace, onProgress }) {
    const request = new XMLHttpRequest();
    request.upload.onprogress = (sent) => onProgress(sent.loaded / sent.total);
    request.open("POST", this.url(replace ? "voices?replace=true" : "voices"));
    const key = this.key.value;
    request.setRequestHeader("X-API-Key", headerOf(key));
    const form = new FormData();
    form.append("file", file, name);
    return new Promise((resolve, reject) => {
      request.onerror = () => reject(new ApiError(UNREACHABLE));
      request.onload = async () => {
        const body = new Response(request.responseText, { status: request.status });
        if (request.status < 300) resolve(await body.json());
        else reject(await this._failed(body, key));
      };
      request.send(form);
    });
  }

  async ask(path, { headers = {}, ...options } = {}) {
    const key = this.key.value;
    const keyed = { ...headers, "X-API-Key": headerOf(key) };
    const answer = await this._fetch(path, { ...options, headers: keyed });
    if (!answer.ok) throw await this._failed(answer, key);
    return answer;
  }

  async _fetch(path, options) {
    try {
      return await fetch(this.url(path), { ...options, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(UNREACHABLE);
    }
  }

  /** Of several requests with one refused key, the first alone tells. */
  async _failed(answer, key) {
    if (answer.status === 401 && key === this.key.value) this._onRefused();
    return failureOf(answer);
  }
}

/** What an answer that is none says, as an `ApiError`. */
export async function failureOf(answer) {
  const { message, code } = await errorIn(answer);
  const wait = Number(answer.headers.get("Retry-After")) || null;
  return new ApiError(sentence(IN_OTHER_WORDS[code] ?? message), answer.status, code, wait);
}

/** The server's own words are for programmers. */
const IN_OTHER_WORDS = {
  queue_full: "the server is busy, and its queue is full",
  invalid_api_key: "the server does not take this key",
};

/** A proxy in front may answer with a page of its own. */
async function errorIn(answer) {
  try {
    return (await answer.json()).error;
  } catch {
    return { message: `the server answered ${answer.status} without a reason`, code: "" };
  }
}

/** With a capital at the start, and a full stop. */
export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
