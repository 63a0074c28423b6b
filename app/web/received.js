/** The received bytes of an answer, as a file to save. */

import { wavOf } from "./wav.js";

/** @param {any} format @param {Blob} sound @returns {Blob} */
export function fileOf({ ending, headerBytes, type }, sound) {
  return ending === "wav" ? wavOf(sound.slice(headerBytes)) : sound.slice(0, sound.size, type);
}

/** Without a last part that has not come whole. @param {any} format @param {Blob} sound */
export async function incompleteFileOf(format, sound) {
  const demuxer = format.demuxer();
  demuxer.push(new Uint8Array(await sound.arrayBuffer()));
  return fileOf(format, sound.slice(0, sound.size - demuxer.unfinishedBytes));
}

/** @param {{incomplete: boolean, format: any}} playback */
export const fileNameOf = ({ incomplete, format }) => `speech${incomplete ? "-incomplete" : ""}.${format.ending}`;
