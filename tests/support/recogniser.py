"""Recognise the words in encoded audio."""

import io
import multiprocessing
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import chain, islice

import av
import numpy as np
import soxr
from numpy.typing import NDArray
from pocketsphinx import Decoder

from app.core.audio import SAMPLE_RATE

Audio = NDArray[np.float32]

CONTAINERS = {
    **{name: name for name in ("wav", "mp3", "webm", "aac", "flac")},
    "fmp4": "mp4",
    "opus": "ogg",
}

_MODEL_RATE = 16_000
_QUIET = np.zeros(int(0.3 * _MODEL_RATE), np.float32)  # the model needs silence before speech

_FRAMES_PER_SECOND = 50
_FRAME = SAMPLE_RATE // _FRAMES_PER_SECOND
_PAUSE_FRAMES = 10


def decode_audio(encoded: bytes, format_name: str) -> Audio:
    """Decode a complete response: float32 [n], mono, 24 kHz."""
    if format_name == "raw_pcm":
        return np.frombuffer(encoded, "<i2").astype(np.float32) / 32768
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    with av.open(io.BytesIO(encoded), format=CONTAINERS[format_name]) as file:
        frames = [part for frame in file.decode(audio=0) for part in resampler.resample(frame)]
    frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def transcribe(audio: Audio, longest_utterance_s: int = 10) -> list[str]:
    """Return the words in `audio`, float32 [n], mono, 24 kHz, of any length."""
    [heard] = transcribe_all([audio], longest_utterance_s)
    return heard


def transcribe_all(recordings: list[Audio], longest_utterance_s: int = 10) -> list[list[str]]:
    """Transcribe several recordings in two processes."""
    longest = longest_utterance_s * _FRAMES_PER_SECOND
    parts = [list(_utterances(audio, longest)) for audio in recordings]
    heard = _listeners().map(_recognise, chain.from_iterable(parts))
    return [list(chain.from_iterable(islice(heard, len(part)))) for part in parts]


def words(text: str) -> list[str]:
    """Return the words of an English text, in lower case without punctuation."""
    return re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower().replace("’", "'"))


def _utterances(audio: Audio, longest: int) -> Iterator[Audio]:
    """Cut `audio` at quiet moments into parts of at most `longest` frames."""
    shortest = longest // 4
    while len(audio) > longest * _FRAME:
        frames = audio[: longest * _FRAME].reshape(-1, _FRAME)[shortest:]
        loudness = np.convolve((frames**2).sum(axis=1), np.ones(_PAUSE_FRAMES), "valid")
        cut = (shortest + int(loudness.argmin()) + _PAUSE_FRAMES // 2) * _FRAME
        yield audio[:cut]
        audio = audio[cut:]
    yield audio


def _recognise(utterance: Audio) -> list[str]:
    speech = soxr.resample(utterance, SAMPLE_RATE, _MODEL_RATE)
    pcm = np.concatenate([_QUIET, speech.clip(-1, 1), _QUIET]) * 32767
    recogniser = _recogniser()
    recogniser.start_utt()
    recogniser.process_raw(pcm.astype("<i2").tobytes(), full_utt=True)
    recogniser.end_utt()
    heard = recogniser.hyp()
    return words(heard.hypstr) if heard else []


@cache
def _listeners() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))


@cache
def _recogniser() -> Decoder:
    # A third of the default number of hypotheses: the same words in less time.
    return Decoder(samprate=_MODEL_RATE, loglevel="FATAL", maxhmmpf=10_000)
