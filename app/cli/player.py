"""Play audio with a program of the system."""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.core.audio import SAMPLE_RATE
from app.core.errors import ServiceError, StartupError


@dataclass(frozen=True)
class Player:
    """A program that plays `format` from standard input or, if it cannot, from a file.

    `package`: where to get it.
    """

    program: str
    arguments: Sequence[str]
    package: str
    format: str = "wav"
    from_file: bool = False


PLAYERS = (
    Player("ffplay", ("-nodisp", "-autoexit", "-loglevel", "error", "-"), "ffmpeg"),
    Player("mpv", ("--no-terminal", "--no-video", "-"), "mpv"),
    Player(
        *("aplay", ("-q", "-t", "raw", "-f", "S16_LE", "-r", str(SAMPLE_RATE), "-c", "1")),
        *("alsa-utils", "raw_pcm"),
    ),
    Player(
        *("paplay", ("--raw", "--format=s16le", f"--rate={SAMPLE_RATE}", "--channels=1")),
        *("pulseaudio-utils", "raw_pcm"),
    ),
    Player("play", ("-q", "-t", "wav", "-"), "sox"),
    Player("afplay", (), "macOS", from_file=True),
)
"""In the order in which they are tried."""


def find_player() -> Player:
    """Return the first player that is installed. Raises `StartupError` if there is none."""
    for player in PLAYERS:
        if shutil.which(player.program):
            return player
    raise StartupError(
        "--play finds no player: install ffmpeg (for ffplay), mpv, alsa-utils (for aplay) or sox, "
        "or write a file with -o"
    )


class Playback:
    """A player that is running; `write` its format to it, then `finish`."""

    def __init__(self, player: Player) -> None:
        self._player = player
        self._file = Path(tempfile.mkstemp(suffix=".wav")[1]) if player.from_file else None
        self._process = None if self._file else self._start("-")
        self._sink = self._file.open("wb") if self._file else None
        self._broken = False

    def write(self, content: bytes) -> None:
        """Wait until the player has taken it; ignored if the player has ended."""
        if self._sink:
            self._sink.write(content)
        elif self._process and self._process.stdin and not self._broken:
            try:
                self._process.stdin.write(content)
                self._process.stdin.flush()
            except BrokenPipeError:
                self._broken = True

    def finish(self) -> None:
        """Wait until all is played. Raises `ServiceError` if the player fails."""
        if self._sink and self._file:
            self._sink.close()
            self._process = self._start(str(self._file))
        if self._process is None:
            return
        try:
            self._process.communicate()
        except BrokenPipeError:
            self._broken = True
        status = self._process.wait()
        if status or self._broken:
            raise ServiceError(
                f"{self._player.program} cannot play it: it ended with {status}; "
                "write a file with -o instead"
            )

    def close(self) -> None:
        """Stop the player, if it still runs."""
        if self._process and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
        if self._sink and self._file:
            self._sink.close()
            self._file.unlink(missing_ok=True)

    def _start(self, source: str) -> subprocess.Popen[bytes]:
        arguments = [source] if self._player.from_file else self._player.arguments
        return subprocess.Popen(
            [self._player.program, *arguments],
            stdin=subprocess.DEVNULL if self._player.from_file else subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
