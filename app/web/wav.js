/** WAV files of mono PCM, 16 bit: a header with true sizes. */

import { SAMPLE_RATE } from "./demuxers.js";

/** @param {Blob} pcm @param {number} rate samples per second @returns {Blob} */
export function wavOf(pcm, rate = SAMPLE_RATE) {
  const header = new DataView(new ArrayBuffer(44));
  const text = (at, letters) => {
    for (const [n, letter] of [...letters].entries()) header.setUint8(at + n, letter.charCodeAt(0));
  };
  text(0, "RIFF");
  header.setUint32(4, pcm.size + 36, true);
  text(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true);
  header.setUint16(22, 1, true);
  header.setUint32(24, rate, true);
  header.setUint32(28, rate * 2, true);
  header.setUint16(32, 2, true);
  header.setUint16(34, 16, true);
  text(36, "data");
  header.setUint32(40, pcm.size, true);
  return new Blob([header, pcm], { type: "audio/wav" });
}

/** What an audio element plays: raw PCM gets a header. @param {Blob} file @returns {Blob} */
export const playable = (file) => (file.type === "audio/pcm" ? wavOf(file) : file);
