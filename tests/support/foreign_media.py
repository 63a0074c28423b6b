"""Sound files as other programs write them, each with about `SOUND_S` of sound."""

import struct
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import av

from tests.support.media import EVEN_VORBIS, tone

Make = Callable[[], bytes]

RATE = 48_000
SOUND_S = 1.2

PLACEHOLDERS = (
    *(0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFFF - 36, 0x7FFFFFFF - 36),
    *(0xFFFFFFFE, 0xFFFFF000, 2_000_000_000, 1 << 30, 10**9, 172_800_000),
)


# --- WAV, chunk by chunk


def chunk(
    name: bytes, content: bytes, *, size: int | None = None, pad: bool = True, order: str = "<"
) -> bytes:
    """Return a chunk, which may state another size, or lack its pad byte."""
    size = len(content) if size is None else size
    return name + struct.pack(f"{order}I", size) + content + bytes(len(content) % 2 * pad)


def wav(
    *before: bytes,
    after: bytes = b"",
    kind: bytes = b"RIFF",
    stated: int | None = None,
    riff: int | None = None,
    depth: int = 16,
    pad: bool = True,
) -> bytes:
    """Return a WAV file with other chunks before and after its sound, and these sizes stated."""
    order = ">" if kind == b"RIFX" else "<"
    count = round(SOUND_S * 24_000) + 1  # odd, as is the size of 8-bit sound
    wave = tone(count / 24_000, 24_000)
    scaled = wave * 32767 if depth == 16 else wave * 127 + 128
    data = scaled.astype(f"{order}i2" if depth == 16 else "u1").tobytes()
    width = depth // 8
    form = struct.pack(f"{order}HHIIHH", 1, 1, 24_000, width * 24_000, width, depth)
    rest = b"WAVE" + b"".join(before) + chunk(b"fmt ", form, order=order)
    rest += chunk(b"data", data, size=stated, pad=pad, order=order) + after
    return kind + struct.pack(f"{order}I", len(rest) if riff is None else riff) + rest


def rf64(data_bytes: int, **options: Any) -> bytes:
    sizes = chunk(b"ds64", struct.pack("<QQQI", data_bytes, data_bytes, data_bytes // 2, 0))
    return wav(sizes, kind=b"RF64", stated=0xFFFFFFFF, riff=0xFFFFFFFF, **options)


# --- containers of FFmpeg


class Film(NamedTuple):
    """When the sound begins, a pause in its middle, and how long the picture is (0: none)."""

    late_s: float = 0.0
    pause_s: float = 0.0
    picture_s: float = 0.0
    picture_first: bool = False


FILMS = {
    "plain": Film(),
    "late": Film(late_s=3),
    "late in a film": Film(late_s=3, picture_s=5),
    "early end": Film(picture_s=8),
    "early end, picture first": Film(picture_s=8, picture_first=True),
    "pause": Film(pause_s=3),
    "pause in a film": Film(pause_s=3, picture_s=5),
    "all": Film(late_s=2, pause_s=1, picture_s=9, picture_first=True),
}


@cache
def film(container: str, codec: str, plan: Film = FILMS["plain"], **options: str) -> bytes:
    with TemporaryDirectory() as folder:
        file = Path(folder, "file")  # which the muxer may read again, to put its index first
        with av.open(file, "w", format=container, options=options) as output:
            _mux(output, codec, plan, "libvpx" if container == "webm" else "mpeg4")
        return file.read_bytes()


def _mux(output: Any, codec: str, plan: Film, picture_codec: str) -> None:
    def add_picture() -> Any:
        picture = output.add_stream(picture_codec, rate=5)
        picture.width = picture.height = 64
        picture.pix_fmt = "yuv420p"
        return picture

    pictures = [add_picture() for _ in range(plan.picture_s > 0 and plan.picture_first)]
    sound = output.add_stream(
        codec, RATE, EVEN_VORBIS, layout="mono" if codec != "vorbis" else "stereo"
    )
    pictures += [add_picture() for _ in range(plan.picture_s > 0 and not plan.picture_first)]
    packets = list(_sound_packets(sound, plan))
    for picture in pictures:
        packets += _picture_packets(picture, plan.picture_s)
    for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
        output.mux(packet)


def _sound_packets(stream: Any, plan: Film) -> Iterator[Any]:
    layout = stream.layout.name
    channels = stream.layout.nb_channels
    wave = tone(SOUND_S, RATE)[None].repeat(channels, 0)
    frame = av.AudioFrame.from_ndarray(wave, "fltp", layout)
    frame.sample_rate, frame.pts = RATE, 0
    resampler = av.AudioResampler(stream.codec_context.format, layout, RATE, frame_size=960)
    frames = [*resampler.resample(frame), *resampler.resample(None), None]
    for packet in [packet for piece in frames for packet in stream.encode(piece)]:
        if packet.pts is None:
            continue
        after = packet.pts * packet.time_base >= SOUND_S / 2
        moved_by = round((plan.late_s + plan.pause_s * after) / packet.time_base)
        packet.pts += moved_by
        packet.dts += moved_by
        yield packet


def _picture_packets(stream: Any, seconds: float) -> Iterator[Any]:
    for number in range(round(5 * seconds)):
        frame = av.VideoFrame(64, 64, "yuv420p")
        frame.pts = number
        yield from stream.encode(frame)
    yield from stream.encode(None)


def patched(content: bytes, after: bytes, skipped: int, value: bytes) -> bytes:
    """Overwrite what is `skipped` bytes behind every place of a mark."""
    changed, at = bytearray(content), content.index(after)
    while at >= 0:
        start = at + len(after) + skipped
        changed[start : start + len(value)] = value
        at = content.find(after, at + 1)
    return bytes(changed)


FRAGMENTED = {
    "movflags": "frag_keyframe+empty_moov+default_base_moof",
    "frag_duration": "300000",
}


def mp4_with_duration(value: int, **options: str) -> bytes:
    content = film("mp4", "aac", **options)
    for box, skipped in ((b"mvhd", 16), (b"tkhd", 20), (b"mdhd", 16)):
        content = patched(content, box, skipped, struct.pack(">I", value))
    return content


def flac_with_total(samples: int) -> bytes:
    content = film("flac", "flac")
    facts = struct.unpack(">Q", content[18:26])[0] >> 36 << 36
    return content[:18] + struct.pack(">Q", facts | samples) + content[26:]


def mp3_with_counts(value: int) -> bytes:
    """Change the numbers of frames and of bytes of LAME's tag."""
    return patched(film("mp3", "libmp3lame"), b"Info", 4, 2 * struct.pack(">I", value))


def webm(*, stated_s: float | None = None, segment_bytes: int | None = None) -> bytes:
    """Return a WebM file with these facts changed; `segment_bytes` of -1 are unknown."""
    content = film("webm", "libopus")
    if stated_s is not None:
        content = patched(content, b"\x44\x89\x88", 0, struct.pack(">d", 1000 * stated_s))
    if segment_bytes is not None:
        size = segment_bytes.to_bytes(7, "big", signed=True)
        content = patched(content, b"\x18\x53\x80\x67\x01", 0, size)
    return content


def with_open_mdat() -> bytes:
    content = film("mp4", "aac", movflags="faststart")
    at = content.index(b"mdat") - 4
    return content[:at] + bytes(4) + content[at + 4 :]


def tagged_adts() -> bytes:
    first, last = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10), b"TAG" + bytes(125)
    return first + film("adts", "aac") + last


# --- all of them


def _unpadded() -> Iterator[tuple[str, Make]]:
    odd = [chunk(b"LIST", b"INFOISFTx" + b"y" * n) for n in (4, 6)]
    cut = [each[:-1] for each in odd]
    yield "one.wav", partial(wav, cut[0])
    yield "two.wav", partial(wav, *cut)
    yield "one of two.wav", partial(wav, cut[0], odd[1])
    yield "the other, and after.wav", partial(wav, odd[0], cut[1], after=cut[0])
    yield "sound.wav", partial(wav, depth=8, pad=False, after=odd[0])
    yield "other names.wav", partial(wav, chunk(b"xtra", b"abc", pad=False), cut[1])
    yield "wide.wav", partial(wav, chunk(b"bext", bytes(603), pad=False))
    yield "pad of another value.wav", partial(wav, cut[0] + b"x")
    yield "after.rf64.wav", partial(rf64, 2 * 28_801, after=cut[0])
    big = chunk(b"abcd", b"x", pad=False, order=">")
    yield "one.rifx.wav", partial(wav, big, kind=b"RIFX")


def _placeholders() -> Iterator[tuple[str, Make]]:
    odd = chunk(b"LIST", b"INFOx", pad=False)
    for size in PLACEHOLDERS:
        yield f"{size:#x}, form right.wav", partial(wav, stated=size)
        yield f"{size:#x} twice.wav", partial(wav, stated=size, riff=size)
        more = min(size + 36, 0xFFFFFFFF)
        yield f"{size:#x} in {more:#x}.wav", partial(wav, stated=size, riff=more)
        yield f"{size:#x}, unpadded.wav", partial(wav, odd, stated=size, riff=size)
        yield f"{size:#x}, 8 bits.wav", partial(wav, stated=size, depth=8, pad=False)
        yield f"{size:#x}.rifx.wav", partial(wav, stated=size, kind=b"RIFX")
        yield f"{size:#x}.m4a", partial(mp4_with_duration, size, movflags="faststart")
        yield f"{size:#x}.fragmented.m4a", partial(mp4_with_duration, size, **FRAGMENTED)
        yield f"{size:#x}.mp3", partial(mp3_with_counts, size)
        yield f"{size:#x}.webm", partial(webm, segment_bytes=size)
    for size in (0, 2**64 - 1, 2**63 - 1, 2_000_000_000, 10**12):
        yield f"{size:#x}.rf64.wav", partial(rf64, size)
    for samples in (0, 2**36 - 1, 2**35, 2**32 - 1, 48_000 * 3600):
        yield f"{samples:#x}.flac", partial(flac_with_total, samples)
    for seconds in (0.0, 1e9, 3600.0, 9.0, 1.5, float("inf"), float("nan")):
        yield f"{seconds:g} s.webm", partial(webm, stated_s=seconds)
        yield f"{seconds:g} s.live.webm", partial(webm, stated_s=seconds, segment_bytes=-1)
    yield "mdat to the end.m4a", with_open_mdat


CONTAINERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "webm": ("webm", "libopus", {}),
    "live.webm": ("webm", "libopus", {"live": "1"}),
    "mkv": ("matroska", "aac", {}),
    "flac.mkv": ("matroska", "flac", {}),
    "m4a": ("mp4", "aac", {}),
    "faststart.m4a": ("mp4", "aac", {"movflags": "faststart"}),
    "alac.mov": ("mov", "alac", {"movflags": "faststart"}),
    "pcm.mov": ("mov", "pcm_s16le", {"movflags": "faststart"}),
    "fragmented.m4a": ("mp4", "aac", FRAGMENTED),
    "ogg": ("ogg", "vorbis", {}),
    "opus": ("ogg", "libopus", {}),
    "flac.ogg": ("ogg", "flac", {}),
}


def _films() -> Iterator[tuple[str, Make]]:
    for plan in FILMS:
        for ending, (container, codec, options) in CONTAINERS.items():
            if container != "ogg" or not FILMS[plan].picture_s:
                yield f"{plan}.{ending}", partial(film, container, codec, FILMS[plan], **options)


def _stated() -> Iterator[tuple[str, Make]]:
    yield "plain.wav", wav
    yield "plain.rf64.wav", partial(rf64, 2 * 28_801)
    yield "plain.flac", partial(film, "flac", "flac")
    yield "plain.mp3", partial(film, "mp3", "libmp3lame")
    yield "stated.live.webm", partial(webm, segment_bytes=-1)
    yield "plain.adts.m4a", partial(film, "adts", "aac")
    yield "tagged.adts.m4a", tagged_adts


KINDS = {
    "unpadded": _unpadded,
    "placeholder": _placeholders,
    "film": _films,
    "stated": _stated,
}
FILES = {f"{kind}, {name}": make for kind, each in KINDS.items() for name, make in each()}

UNKNOWN_LENGTH = ("placeholder", "live.webm", ".ogg", ".opus", ".mp3", "fragmented", "tagged")
CUTTABLE = [
    name
    for name in FILES
    if name == "stated, stated.live.webm"
    or not any(each in name for each in (*UNKNOWN_LENGTH, "early end", "all."))
]
"""Those of which one sees that sound is missing."""
