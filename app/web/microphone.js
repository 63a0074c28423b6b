/** Records from the microphone. Failures are raised with a sentence to show. */

const LONGEST_MS = 60_000;
const OPTIONS = { audioBitsPerSecond: 192_000 };
/** What helps telephone calls spoils a voice. */
const AUDIO = { echoCancellation: false, noiseSuppression: false, autoGainControl: true };

const INSECURE =
  "Browsers allow the microphone over https and on localhost only: record a file with another program, and choose it here.";
const REASONS = {
  NotAllowedError:
    "The browser refuses the microphone: allow it for this page beside the address, then record again.",
  NotFoundError: "There is no microphone: connect one, or choose a file.",
  NotReadableError: "Another program uses the microphone: close it there, then record again.",
};

export class Microphone {
  /** The loudness, 0 to 1, and the length so far in seconds; called often. */
  onlevel = (level, seconds) => {};

  /** Asks for the microphone; resolves once it records. */
  async start() {
    if (!navigator.mediaDevices?.getUserMedia) throw new Error(INSECURE);
    try {
      this._stream = await navigator.mediaDevices.getUserMedia({ audio: AUDIO });
    } catch (error) {
      throw new Error(REASONS[error.name] ?? `The microphone cannot be used: ${error.message}.`);
    }
    this._recorder = new MediaRecorder(this._stream, OPTIONS);
    this._pieces = [];
    this._recorder.addEventListener("dataavailable", ({ data }) => this._pieces.push(data));
    this._recorder.start();
    this._startedAt = performance.now();
    this._watch();
  }

  /** Resolves to the recording, when it is stopped or has lasted a minute. @returns {Promise<Blob>} */
  recorded() {
    return new Promise((resolve) => {
      this._recorder.addEventListener("stop", () => {
        this._release();
        resolve(new Blob(this._pieces, { type: this._recorder.mimeType }));
      });
    });
  }

  stop() {
    if (this._recorder?.state === "recording") this._recorder.stop();
  }

  _watch() {
    this._context = new AudioContext();
    const analyser = this._context.createAnalyser();
    this._context.createMediaStreamSource(this._stream).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    this._timer = setInterval(() => {
      analyser.getFloatTimeDomainData(samples);
      const elapsed = performance.now() - this._startedAt;
      this.onlevel(Math.min(1, 2 * Math.max(...samples.map(Math.abs))), elapsed / 1000);
      if (elapsed > LONGEST_MS) this.stop();
    }, 60);
  }

  _release() {
    clearInterval(this._timer);
    this._context.close();
    for (const track of this._stream.getTracks()) track.stop();
  }
}
