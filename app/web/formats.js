/** Audio formats: label, media type, file ending, demuxer and player of each. */

import { MsePlayer, PcmPlayer, WholePlayer, streams } from "./player.js";
import { AdtsDemuxer, Mp3Demuxer, Mp4Demuxer, OggDemuxer, PcmDemuxer, WebmDemuxer } from "./demuxers.js";
import { FlacDemuxer } from "./flac.js";

const WAV_HEADER_BYTES = 44;

const FORMATS = {
  fmp4: {
    label: "fmp4 · AAC",
    type: 'audio/mp4; codecs="mp4a.40.2"',
    ending: "mp4",
    demuxer: () => new Mp4Demuxer(),
  },
  webm: {
    label: "webm · Opus",
    type: 'audio/webm; codecs="opus"',
    ending: "webm",
    demuxer: () => new WebmDemuxer(),
  },
  mp3: { label: "mp3", type: "audio/mpeg", ending: "mp3", demuxer: () => new Mp3Demuxer() },
  opus: {
    label: "opus · Ogg",
    type: 'audio/ogg; codecs="opus"',
    ending: "opus",
    demuxer: () => new OggDemuxer(),
  },
  aac: { label: "aac · ADTS", type: "audio/aac", ending: "aac", demuxer: () => new AdtsDemuxer() },
  flac: { label: "flac", type: "audio/flac", ending: "flac", demuxer: () => new FlacDemuxer() },
  wav: { label: "wav", type: "audio/wav", ending: "wav", headerBytes: WAV_HEADER_BYTES },
  raw_pcm: { label: "raw_pcm · 16 bit", type: "audio/pcm", ending: "pcm", headerBytes: 0 },
};

/** The formats that this page plays. */
export const KNOWN = Object.keys(FORMATS);

const LIVE = "Heard while it is being made.";
const BY_PAGE = "Heard while it is being made, without a way to seek before the end.";
const AT_ONCE = "Heard once all of it is made.";
const AT_END = "This browser plays it once all of it has come.";

/** How `name` is treated in this browser. */
export function format(name) {
  const known = FORMATS[name];
  if ("headerBytes" in known) return { ...known, ...pcm(known.headerBytes) };
  const live = streams(known.type);
  const Player = live ? MsePlayer : WholePlayer;
  return {
    ...known,
    encoded: true,
    live,
    note: live ? LIVE : AT_END,
    player: (audio) => new Player(audio, known.type),
  };
}

/** A sentence about when the request's audio starts to play. */
export function whenHeard(request) {
  return request.stream === false ? AT_ONCE : format(request.format).note;
}

function pcm(headerBytes) {
  return {
    encoded: false,
    live: true,
    note: BY_PAGE,
    demuxer: () => new PcmDemuxer(headerBytes),
    player: () => new PcmPlayer(headerBytes),
  };
}

/** Heard at once, and saved as a file that every computer opens. */
const BEST = ["mp3", "wav"];

/** The format that suits this browser, of those that the server makes. */
export function best(names) {
  const ranking = [...BEST.filter((name) => format(name).live), ...BEST, ...ranked(names)];
  return ranking.find((name) => names.includes(name));
}

/** Those of `names` that are known here, the best for this browser first. */
export function ranked(names) {
  const known = KNOWN.filter((name) => names.includes(name));
  return [...known.filter((name) => format(name).live), ...known.filter((name) => !format(name).live)];
}
