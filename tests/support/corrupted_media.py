"""Audio files of every accepted container, and ways to corrupt them."""

from collections.abc import Callable
from random import Random

import numpy as np

from tests.support.media import audio_file, tone

RATE = 48_000
HEADER_BYTES = 600
MONO = tone(1.2, RATE)
STEREO = np.stack([MONO, MONO])

WHOLE = {
    "wav": audio_file(MONO, rate=RATE),
    "float.wav": audio_file(STEREO, rate=RATE, codec="pcm_f32le"),
    "adpcm.wav": audio_file(MONO, rate=RATE, codec="adpcm_ms"),
    "mp3": audio_file(MONO, rate=RATE, container="mp3", codec="libmp3lame"),
    "flac": audio_file(MONO, rate=RATE, container="flac", codec="flac"),
    "vorbis.ogg": audio_file(STEREO, rate=RATE, container="ogg", codec="vorbis"),
    "opus": audio_file(MONO, rate=RATE, container="ogg", codec="libopus"),
    "m4a": audio_file(MONO, rate=RATE, container="ipod", codec="aac"),
    "adts.m4a": audio_file(MONO, rate=RATE, container="adts", codec="aac"),
    "alac.m4a": audio_file(STEREO, rate=RATE, container="ipod", codec="alac"),
    "webm": audio_file(MONO, rate=RATE, container="webm", codec="libopus"),
    "vorbis.webm": audio_file(STEREO, rate=RATE, container="webm", codec="vorbis"),
}
"""By container or by codec and container."""


def _place(content: bytes, random: Random) -> int:
    """Return a random position, in half of the cases near the start, where headers are."""
    return random.randrange(min(len(content), random.choice((HEADER_BYTES, len(content)))))


def _piece(content: bytes, random: Random) -> slice:
    start = _place(content, random)
    return slice(start, start + random.choice((1, 4, 16, 300, 5_000)))


def truncated(content: bytes, random: Random) -> bytes:
    return content[: _place(content, random)]


def flipped(content: bytes, random: Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(random.choice((1, 3, 30, 300))):
        damaged[_place(content, random)] ^= 1 << random.randrange(8)
    return bytes(damaged)


def overwritten(content: bytes, random: Random) -> bytes:
    """Overwrite a piece with zeros, ones (as an extreme length) or noise."""
    piece = _piece(content, random)
    length = len(content[piece])
    filling = random.choice((bytes(length), b"\xff" * length, random.randbytes(length)))
    return content[: piece.start] + filling + content[piece.stop :]


def moved(content: bytes, random: Random) -> bytes:
    """Remove a piece, or repeat it elsewhere."""
    piece, place = content[_piece(content, random)], _place(content, random)
    times = random.choice((0, 1, 2, 100))
    return content[:place] + piece * times + content[place + len(piece) * (times < 2) :]


def with_another_head(content: bytes, random: Random) -> bytes:
    other = random.choice(list(WHOLE.values()))
    place = _place(other, random)
    return other[:place] + content[place:]


DAMAGES: list[Callable[[bytes, Random], bytes]] = [
    truncated,
    flipped,
    overwritten,
    moved,
    with_another_head,
]


def damaged(seed: int) -> tuple[str, bytes]:
    """Return name and bytes of the corrupted file for a seed."""
    random = Random(seed)
    container, damage = random.choice(list(WHOLE)), random.choice(DAMAGES)
    return f"{seed}-{damage.__name__}.{container}", damage(WHOLE[container], random)
