"""Play audio with a program of the system."""

import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from tempfile import NamedTemporaryFile
from time import perf_counter

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


EARLY_S = 2.0
"""A player that fails sooner is taken to have played nothing."""


def find_players() -> list[Player]:
    """Return those that are installed. Raises `StartupError` if there is none."""
    if found := [player for player in PLAYERS if shutil.which(player.program)]:
        return found
    raise StartupError(
        "--play finds no player: install ffmpeg (for ffplay), mpv, alsa-utils (for aplay) or sox, "
        "or write a file with -o"
    )


class Playback:
    """Plays PCM with the first of some players that can, each from the start.

    Raises `ServiceError` when none is left, or one fails that has already played something.
    """

    def __init__(self, players: Sequence[Player]) -> None:
        self._left = list(players)
        self._failures: list[str] = []
        self._pcm: list[bytes] = []  # all so far, until a player has played some
        self._running = self._next()

    def write(self, pcm: bytes) -> None:
        """Wait until the player has taken it; ignored if a player has ended that played."""
        self._pcm.append(pcm)
        self._running.write(pcm)
        while self._running.is_gone and not self._running.has_played:
            self._replace(self._running.finish())
        if self._running.has_played:
            self._pcm.clear()

    def finish(self) -> None:
        """Wait until all is played."""
        while failure := self._running.finish():
            self._replace(failure)

    def close(self) -> None:
        """Stop the player, if it still runs."""
        self._running.close()

    def _replace(self, failure: str) -> None:
        self._failures.append(failure)
        if self._running.has_played:
            raise self._failed()
        self._running.close()
        self._running = self._next()
        for pcm in self._pcm:
            self._running.write(pcm)

    def _next(self) -> "_RunningPlayer":
        while self._left:
            player = self._left.pop(0)
            try:
                return _RunningPlayer(player)
            except OSError as error:
                self._failures.append(f"{player.program} cannot be started: {error.strerror}")
        raise self._failed()

    def _failed(self) -> ServiceError:
        return ServiceError(f"{', '.join(self._failures)}; write a file with -o instead")


class _RunningPlayer:
    """`has_played`: it has run for longer than `EARLY_S`. `is_gone`: it takes nothing more."""

    def __init__(self, player: Player) -> None:
        from app.audio.formats import new_encoder

        self.has_played = self.is_gone = False
        self._player = player
        self._encoder = new_encoder(player.format)
        self._process = None if player.from_file else self._start(*player.arguments)
        self._file = NamedTemporaryFile(suffix=".wav") if player.from_file else None  # noqa: SIM115
        self._started_at = perf_counter()

    def write(self, pcm: bytes) -> None:
        if self._process and self._process.poll() is None:
            self.has_played |= perf_counter() - self._started_at > EARLY_S
        self._put(self._encoder.encode(pcm))

    def finish(self) -> str:
        """Wait until all is played; returns what went wrong, if anything did."""
        self.write(b"")
        self._put(self._encoder.finish())
        if self._file:
            try:
                self._process = self._start(self._file.name)
            except OSError as error:
                return f"{self._player.program} cannot be started: {error.strerror}"
        self._close_pipe()
        began = perf_counter()
        status = self._process.wait() if self._process else 0
        self.has_played |= perf_counter() - began > EARLY_S
        if status or self.is_gone:
            return f"{self._player.program} cannot play it: it ended with {status}"
        return ""

    def close(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
        self._close_pipe()
        if self._file:
            self._file.close()  # which removes it

    def _put(self, content: bytes) -> None:
        sink = self._file or (self._process and self._process.stdin)
        if sink and not self.is_gone:
            try:
                sink.write(content)
                sink.flush()
            except BrokenPipeError:
                self.is_gone = True

    def _close_pipe(self) -> None:
        if self._process and self._process.stdin:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self._player.program, *arguments],
            stdin=subprocess.DEVNULL if self._player.from_file else subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
