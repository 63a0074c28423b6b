"""Sound files as other programs write them: each holds about `SOUND_S` of sound."""

import struct
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import av

from tests.support.media import EVEN_VORBIS, tone

RATE = 48_000
SOUND_S = 2.0

PLACEHOLDERS = (
    *(0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0xFFFFFFFF - 36, 0x7FFFFFFF - 36),
    *(0xFFFFFFFE, 0xFFFFF000, 2_000_000_000, 1 << 30, 10**9, 172_800_000, 10_000_000),
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
    seconds: float = SOUND_S,
) -> bytes:
    """Return a WAV file with other chunks before and after its sound, and these sizes stated."""
    order = ">" if kind == b"RIFX" else "<"
    count = round(seconds * 24_000) + 1  # odd, as is the size of 8-bit sound
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


def wav_files() -> Iterator[tuple[str, bytes]]:
    unpadded = [chunk(b"LIST", b"INFOISFTx" + b"y" * n, pad=False) for n in (4, 6)]
    padded = [chunk(b"LIST", b"INFOISFTx" + b"y" * n) for n in (4, 6)]
    yield "plain.wav", wav()
    yield "unpadded.wav", wav(unpadded[0])
    yield "unpadded twice.wav", wav(*unpadded)
    yield "unpadded, padded.wav", wav(unpadded[0], padded[1])
    yield "padded, unpadded.wav", wav(padded[0], unpadded[1], after=unpadded[0])
    yield "unpadded sound.wav", wav(depth=8, pad=False, after=padded[0])
    yield "unpadded of another name.wav", wav(chunk(b"xtra", b"abc", pad=False), unpadded[0])
    yield "unpadded fact, wide.wav", wav(chunk(b"bext", bytes(603), pad=False))
    yield "padded with a letter.wav", wav(chunk(b"LIST", b"INFOabc", pad=False) + b"x")
    yield "unpadded.rf64.wav", rf64(96_002, after=unpadded[0])
    yield "unpadded.rifx.wav", wav(chunk(b"abcd", b"x", pad=False, order=">"), kind=b"RIFX")
    for size in PLACEHOLDERS:
        for riff in {None, size, min(size + 36, 0xFFFFFFFF)}:
            yield f"{size:#x} in {riff}.wav", wav(stated=size, riff=riff)
        yield f"{size:#x}, unpadded.wav", wav(*unpadded, stated=size, riff=size)
        yield f"{size:#x}, 8 bits.wav", wav(stated=size, depth=8, pad=False)
        yield f"{size:#x}.rifx.wav", wav(stated=size, kind=b"RIFX")
    for size in (96_002, 0, 2**64 - 1, 2**63 - 1, 2_000_000_000, 10**12):
        yield f"{size:#x}.rf64.wav", rf64(size)


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


def _mp4_with_duration(content: bytes, value: int) -> bytes:
    for box, skipped in ((b"mvhd", 16), (b"tkhd", 20), (b"mdhd", 16)):
        content = patched(content, box, skipped, struct.pack(">I", value))
    return content


def _flac_with_total(content: bytes, samples: int) -> bytes:
    facts = struct.unpack(">Q", content[18:26])[0] >> 36 << 36
    return content[:18] + struct.pack(">Q", facts | samples) + content[26:]


def film_files() -> Iterator[tuple[str, bytes]]:
    for name, plan in FILMS.items():
        for ending, container, codec, options in (
            ("webm", "webm", "libopus", {}),
            ("live.webm", "webm", "libopus", {"live": "1"}),
            ("mkv", "matroska", "aac", {}),
            ("flac.mkv", "matroska", "flac", {}),
            ("m4a", "mp4", "aac", {}),
            ("first.m4a", "mp4", "aac", {"movflags": "faststart"}),
            ("mov.m4a", "mov", "alac", {"movflags": "faststart"}),
            ("fragments.m4a", "mp4", "aac", FRAGMENTS),
            ("ogg", "ogg", "vorbis", {}),
            ("opus", "ogg", "libopus", {}),
            ("flac.ogg", "ogg", "flac", {}),
        ):
            if container != "ogg" or not plan.picture_s:
                yield f"{name}.{ending}", film(container, codec, plan, **options)


FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "300000"}


def placeholder_files() -> Iterator[tuple[str, bytes]]:
    first = film("mp4", "aac", movflags="faststart")
    fragments = film("mp4", "aac", **FRAGMENTS)
    webm = film("webm", "libopus")
    flac = film("flac", "flac")
    mp3 = film("mp3", "libmp3lame")
    for value in PLACEHOLDERS:
        yield f"duration {value:#x}.m4a", _mp4_with_duration(first, value)
        yield f"duration {value:#x}.fragments.m4a", _mp4_with_duration(fragments, value)
        size = value.to_bytes(7, "big")
        yield f"segment {value:#x}.webm", patched(webm, b"\x18\x53\x80\x67\x01", 0, size)
        yield f"frames {value:#x}.mp3", patched(mp3, b"Info", 4, 2 * struct.pack(">I", value))
    yield "mdat 0.m4a", patched(first, struct.pack(">I", 8) + b"free", 0, bytes(4))
    for samples in (0, 2**36 - 1, 2**35, 2**32 - 1, 48_000 * 3600):
        yield f"total {samples:#x}.flac", _flac_with_total(flac, samples)
    for seconds in (0.0, 1e9, 3600.0, float("inf"), float("nan")):
        milliseconds = struct.pack(">d", 1000 * seconds)
        stated = patched(webm, b"\x44\x89\x88", 0, milliseconds)
        yield f"{seconds:g} s.webm", stated
        yield f"{seconds:g} s live.webm", patched(stated, b"\x18\x53\x80\x67\x01", 0, b"\xff" * 7)
    yield "stated live.webm", patched(webm, b"\x18\x53\x80\x67\x01", 0, b"\xff" * 7)
    yield "plain.adts.m4a", film("adts", "aac")
    yield "tagged.adts.m4a", film("adts", "aac") + b"TAG" + bytes(125)
    yield "tag first.adts.m4a", b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + film("adts", "aac")
    yield "plain.mp3", mp3
