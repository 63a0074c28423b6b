"""Where `speak` puts audio: a file, standard output, a player, or several of them."""

import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from math import inf
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, BinaryIO, Protocol

from app.cli.console import is_terminal, open_for_writing
from app.cli.player import Playback, Player
from app.core.audio import BYTES_PER_SAMPLE, SAMPLE_RATE
from app.core.errors import InvalidRequest, ServiceError, StartupError

if TYPE_CHECKING:
    from app.audio.encoder import Encoder

STANDARD_OUTPUT = "-"


def format_for(output: str | None, name: str | None) -> str:
    """The format that a file's ending or `--format` asks for. Raises `InvalidRequest`."""
    from app.audio.formats import FORMAT_OF_NAME, FORMAT_OF_SUFFIX

    if name is not None:
        if name.lower() not in FORMAT_OF_NAME:
            raise InvalidRequest(f"no format {name!r}: it is one of {' '.join(FORMAT_OF_NAME)}")
        return name.lower()
    if output is None or output == STANDARD_OUTPUT:
        return "wav"
    found = FORMAT_OF_SUFFIX.get(Path(output).suffix.lower())
    if found is None:
        endings = " ".join(FORMAT_OF_SUFFIX)
        raise InvalidRequest(f"{output}: the ending must be one of {endings}, or give --format")
    return found


class Sink(Protocol):
    """Takes PCM."""

    def write(self, pcm: bytes) -> None: ...

    def finish(self) -> None: ...


class Output:
    """Takes the PCM of one text and times it, from the last `start`."""

    def __init__(self, speed: float) -> None:
        from app.audio.formats import new_encoder

        self._tempo = new_encoder("raw_pcm", speed)
        self._sinks: list[Sink] = []
        self._samples = 0
        self._first_audio_s = 0.0
        self.start()

    def start(self) -> None:
        self._began = perf_counter()

    def add(self, sink: Sink) -> None:
        self._sinks.append(sink)

    def write(self, pcm: bytes) -> None:
        if not self._samples:
            self._first_audio_s = perf_counter() - self._began
        self._write(self._tempo.encode(pcm))

    def finish(self) -> str:
        """Complete everything and return how long it took."""
        self._write(self._tempo.finish())
        total_s, audio_s = perf_counter() - self._began, self._samples / SAMPLE_RATE
        for sink in self._sinks:
            sink.finish()
        real_time_factor = total_s / audio_s if audio_s else inf
        return (
            f"{audio_s:.2f} s of audio in {total_s:.2f} s, "
            f"first audio after {self._first_audio_s * 1000:.0f} ms, "
            f"real-time factor {real_time_factor:.3f}"
        )

    def _write(self, pcm: bytes) -> None:
        self._samples += len(pcm) // BYTES_PER_SAMPLE
        for sink in self._sinks:
            sink.write(pcm)


class _Stream:
    """Encodes audio and writes it to a stream at once."""

    def __init__(self, encoder: "Encoder", stream: BinaryIO) -> None:
        self._encoder = encoder
        self._stream = stream

    def write(self, pcm: bytes) -> None:
        _write(self._stream, self._encoder.encode(pcm))

    def finish(self) -> None:
        _write(self._stream, self._encoder.finish())


class _File:
    """Writes the file at the end, when its header can state its length."""

    def __init__(self, encoder: "Encoder", file: BinaryIO) -> None:
        self._encoder = encoder
        self._file = file
        self._pieces: list[bytes] = []

    def write(self, pcm: bytes) -> None:
        self._pieces.append(self._encoder.encode(pcm))

    def finish(self) -> None:
        content = b"".join([*self._pieces, self._encoder.finish()])
        _write(self._file, self._encoder.finalize_file(content))


def _write(stream: BinaryIO, content: bytes) -> None:
    try:
        stream.write(content)
        stream.flush()
    except OSError as error:
        raise ServiceError(f"cannot write the audio: {error.strerror}") from None


@contextmanager
def opened(
    output: str | None, form: str, players: Sequence[Player], speed: float
) -> Iterator[Output]:
    """An output to be finished; without `players` it plays nothing.

    A file appears only if all goes well.
    """
    from app.audio.formats import new_encoder

    with ExitStack() as stack:
        result = Output(speed)
        if output == STANDARD_OUTPUT:
            if sys.stdout is None:
                raise StartupError("standard output is closed: write | or > after the command")
            if is_terminal(sys.stdout):
                raise StartupError("standard output is a terminal: write | or > after the command")
            result.add(_Stream(new_encoder(form), sys.stdout.buffer))
        elif output is not None:
            file = stack.enter_context(_replacing(Path(output)))
            result.add(_File(new_encoder(form), file))
        if players:
            playback = stack.enter_context(closing(Playback(players)))
            result.add(playback)
        yield result


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    if path.is_dir():
        raise InvalidRequest(f"{path} is a folder")
    if path.exists() and not path.is_file():  # a device, a named pipe
        with open_for_writing(path) as file:
            yield file
        return
    target = Path(os.path.realpath(path))  # of a link, which stays
    partial = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with open_for_writing(partial) as file:
            yield file
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
