"""`speak` and `voices` with their options, in this process, alone and with a running service."""

import io
import json
import os
import re
import socket
import subprocess
import sys
import wave
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest

from app.audio.formats import FORMAT_OF_NAME
from app.cli import main as main_module
from app.cli import player as player_module
from app.cli import speak as speak_module
from app.cli.output import opened
from app.cli.player import Player
from app.cli.server_client import Server
from app.cli.terms import in_options
from app.core.params import ALL_PARAMETERS
from app.server.made_key import kept_key
from tests.support.contract import ContractService, contract_service
from tests.support.engines import expected_pcm
from tests.support.media import audio_file, seconds_of, tone
from tests.support.service import API_KEY, SCRIPTED

SPOKEN = "audio30 audio5"
SECONDS = 35 * 0.04


class Done(NamedTuple):
    status: int
    out: bytes
    err: str


class Terminal:
    """Runs commands in a folder of its own, where no service listens."""

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        capture: pytest.CaptureFixture[bytes],
    ) -> None:
        self.folder = folder
        self._patch = monkeypatch
        self._capture = capture
        monkeypatch.chdir(folder)
        monkeypatch.setattr(speak_module, "set_up_logging", lambda *args: None)
        self.set(MODEL=SCRIPTED, HOST="127.0.0.1", PORT="1", API_KEY="")

    def set(self, **env: str) -> None:
        for name, value in env.items():
            self._patch.setenv(name, value)

    def __call__(self, *args: str, stdin: bytes | None = b"") -> Done:
        """Run a command; without `stdin`, its standard input is closed."""
        self._patch.setattr(sys, "argv", ["chatterbox-tts", *args])
        read = None if stdin is None else io.TextIOWrapper(io.BytesIO(stdin))
        self._patch.setattr(sys, "stdin", read)
        self._capture.readouterr()
        try:
            main_module.main()
        except SystemExit as end:
            status = end.code
        out, err = self._capture.readouterr()
        assert isinstance(status, int)
        return Done(status, out, err.decode())

    def done(self, *args: str, stdin: bytes = b"") -> Done:
        done = self(*args, stdin=stdin)
        assert done.status == 0, done.err
        return done

    def mistake(self, *args: str, stdin: bytes | None = b"", status: int = 2) -> str:
        """The last line of a command that fails."""
        done = self(*args, stdin=stdin)
        assert done.status == status, done.err
        return done.err.splitlines()[-1]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Terminal:
    return Terminal(tmp_path, monkeypatch, capfdbinary)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContractService]:
    folder = tmp_path_factory.mktemp("service")
    (folder / "voices").mkdir()
    (folder / "voices" / "anna.wav").write_bytes(audio_file(tone(1.1)))
    with contract_service(folder) as service:
        yield service


@pytest.fixture(scope="module")
def url(service: ContractService) -> Iterator[str]:
    with service.listening() as url:
        yield url


# --- text and output ------------------------------------------------------------------------------


def test_text_comes_from_the_argument_a_file_or_a_pipe(run: Terminal) -> None:
    (run.folder / "text.txt").write_bytes("\ufeffaudio3".encode())
    (run.folder / "wide.txt").write_bytes("audio3".encode("utf-16"))
    for args in (("audio3",), ("-f", "text.txt"), ("-f", "wide.txt"), (), ("-",)):
        done = run.done("speak", *args, "-o", "out.pcm", "--seed", "7", stdin=b"audio3\n")
        assert (run.folder / "out.pcm").read_bytes() == expected_pcm("audio3", 7)
        assert "scripted model, loaded for this" in done.err


def test_standard_output_gets_any_format_and_nothing_else(run: Terminal) -> None:
    for name in ("wav", "mp3", "m4a", "webm", "ogg", "aac", "flac"):
        done = run.done("speak", SPOKEN, "-q", "-o", "-", "--format", name.upper())
        assert done.err == ""
        assert seconds_of(done.out) == pytest.approx(SECONDS, abs=0.13)
    pcm = run.done("speak", "audio3", "-q", "-o", "-", "--format", "pcm", "--seed", "7").out
    assert pcm == expected_pcm("audio3", 7)
    assert list(run.folder.iterdir()) == []


def test_format_may_differ_from_the_ending_and_speed_counts(run: Terminal) -> None:
    run.done("speak", SPOKEN, "-o", "out.bin", "--format", "wav", "--speed", "0.5")
    with wave.open(str(run.folder / "out.bin")) as file:
        assert file.getnframes() / file.getframerate() == pytest.approx(2 * SECONDS, abs=0.01)


def test_every_synthesis_parameter_is_an_option_with_its_bounds(run: Terminal) -> None:
    shown = run.done("speak", "--help").out.decode()
    for name in ALL_PARAMETERS:
        assert f"--{name.replace('_', '-')}" in shown
    [formats] = re.findall(r"--format NAME(.*?)--play", shown, re.DOTALL)
    assert set(re.findall(r"\w+", formats)) >= FORMAT_OF_NAME.keys()
    for other in ("--exaggeration", "--temperature", "(0.25 to 4)", "Examples:"):
        assert other in shown
    assert "must be at most 2" in run.mistake("speak", "a", "--exaggeration", "2.1")
    assert "must be 'full' or 'zero'" in run.mistake("speak", "a", "--chunk-overlap-method", "x")


PLAYS = f"""#!{sys.executable}
import sys
open('played', 'wb').write(sys.stdin.buffer.read())
"""


def test_play_gives_the_audio_to_an_installed_player(run: Terminal) -> None:
    programs = run.folder / "bin"
    programs.mkdir()
    run.set(PATH=str(programs))
    assert "install ffmpeg" in run.mistake("speak", "audio3", "--play")
    player = programs / "aplay"
    player.write_text(PLAYS)
    player.chmod(0o755)
    run.done("speak", "audio3", "--play", "--seed", "7")
    assert (run.folder / "played").read_bytes() == expected_pcm("audio3", 7)
    assert not (run.folder / "speech.wav").exists()
    run.done("speak", "audio3", "--play", "-o", "out.pcm", "--seed", "7")
    assert (run.folder / "out.pcm").read_bytes() == expected_pcm("audio3", 7)


def test_play_takes_the_next_player_if_one_fails_at_once(run: Terminal) -> None:
    programs = run.folder / "bin"
    programs.mkdir()
    run.set(PATH=str(programs))

    def install(name: str, content: str) -> None:
        (programs / name).write_text(content)
        (programs / name).chmod(0o755)

    fails = f"#!{sys.executable}\nraise SystemExit(3)\n"
    install("ffplay", "no program")
    install("mpv", fails)
    line = run.mistake("speak", "audio3", "--play", status=1)
    assert "ffplay cannot be started: Exec format error, mpv cannot play it: it ended" in line
    assert "write a file with -o instead" in line
    install("paplay", PLAYS)
    run.done("speak", "audio300", "--play", "--seed", "7")
    assert (run.folder / "played").read_bytes() == expected_pcm("audio300", 7)


def test_play_does_not_begin_again_after_a_while(
    run: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(player_module, "EARLY_S", 0.05)
    monkeypatch.setattr(player_module, "PLAYERS", [Player("sh", ("-c", "sleep 0.2; exit 4"), ""),
                                                   Player("cat", (), "")])  # fmt: skip
    line = run.mistake("speak", "audio3", "--play", status=1)
    assert line.endswith("sh cannot play it: it ended with 4; write a file with -o instead")


MISTAKES = {
    ("speak", "a", "-f", "text.txt"): "not both",
    ("speak", "-f", "no.txt"): "cannot read no.txt",
    ("speak", "a", "-o", "out.txt"): "or give --format",
    ("speak", "a", "--format", "mpga"): "it is one of wav mp3",
    ("speak", "a", "--server", "ftp://there"): "--server ftp://there",
    ("speak", "a", "--server", ""): "--server '' names no host: give a URL such as",
    ("serve", "--port", "0"): "--port",
    ("voices", "rm", "nobody"): "no voice nobody",
    ("voices", "add", "no.wav"): "cannot read no.wav",
    (
        "voices",
        "add",
        "text.txt",
    ): "'text.txt' is not the name of a sound file, which ends in one of",
    ("completion", "tcsh"): "tcsh",
    ("speaks",): "No such command",
}


@pytest.mark.parametrize("args", MISTAKES, ids=" ".join)
def test_user_mistake_is_a_sentence_and_exits_2(run: Terminal, args: tuple[str, ...]) -> None:
    (run.folder / "text.txt").write_text("audio3")
    assert MISTAKES[args] in run.mistake(*args)


def test_failure_that_is_no_mistake_exits_1(run: Terminal) -> None:
    line = run.mistake("speak", SPOKEN, "-o", "/dev/full", "--format", "wav", status=1)
    assert line == "chatterbox-tts: cannot write the audio: No space left on device"
    assert "cannot reach http://127.0.0.1:1" in run.mistake(
        "speak", "a", "--server", "127.0.0.1:1", status=1
    )


@pytest.mark.parametrize(
    "args", [("voices", "list", "--json"), ("speak", "audio3", "-q", "-o", "-")], ids=" ".join
)
def test_standard_output_without_space_is_a_sentence(
    run: Terminal, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    with suppress(OSError), open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        done = run(*args)
    assert done.status == 1
    [line] = done.err.splitlines()
    assert line.startswith("chatterbox-tts: cannot write the ")
    assert line.endswith("No space left on device")


def test_pipe_whose_reader_leaves_ends_the_command(
    run: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with suppress(OSError), os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        line = run.mistake("speak", "audio3", "-q", "-o", "-", status=1)
    assert line == "chatterbox-tts: cannot write the audio: Broken pipe"


def test_closed_standard_streams_are_no_terminals(
    run: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    run.done("voices", "list")
    assert "standard output is closed" in run.mistake("speak", "audio3", "-o", "-")
    assert "no text: write it" in run.mistake("speak", "-o", "out.wav", stdin=None)
    assert "no text: write it" in run.mistake("speak", "-", "-o", "out.wav", stdin=None)


def test_file_behind_a_link_is_written(run: Terminal) -> None:
    (run.folder / "files").mkdir()
    (run.folder / "link.pcm").symlink_to("files/out.pcm")
    run.done("speak", "audio3", "-o", "link.pcm", "--seed", "7")
    assert (run.folder / "link.pcm").is_symlink()
    assert (run.folder / "files" / "out.pcm").read_bytes() == expected_pcm("audio3", 7)


def test_two_commands_may_write_one_file(tmp_path: Path) -> None:
    target = str(tmp_path / "out.pcm")
    with opened(target, "pcm", (), 1) as one, opened(target, "pcm", (), 1) as other:
        for output, pcm in ((one, b"ab"), (other, b"cd")):
            output.write(pcm)
            output.finish()
    assert (tmp_path / "out.pcm").read_bytes() == b"ab"
    assert [path.name for path in tmp_path.iterdir()] == ["out.pcm"]


# --- a running service ----------------------------------------------------------------------------


def test_running_service_speaks_so_that_no_model_is_loaded(
    run: Terminal, url: str, service: ContractService
) -> None:
    run.set(PORT=url.rpartition(":")[2], API_KEY=API_KEY)
    args = ("speak", SPOKEN, "-o", "out.wav", "--seed", "7", "--voice", "anna", "--top-k", "9")
    done = run.done(*args)
    assert f"model of the server at http://127.0.0.1:{url.rpartition(':')[2]}" in done.err
    job = service.backend.jobs[-1]
    assert (job.params.seed, job.params.top_k) == (7, 9)
    with wave.open(str(run.folder / "out.wav")) as file:
        assert file.getnframes() / file.getframerate() == pytest.approx(SECONDS)
    assert "loaded for this" in run.done("speak", "audio3", "--local").err


def test_service_that_cannot_speak_is_named_and_a_model_is_loaded(run: Terminal, url: str) -> None:
    run.set(PORT=url.rpartition(":")[2], API_KEY="wrong")
    (run.folder / "mine.wav").write_bytes(audio_file(tone(1.2)))
    done = run.done("speak", "audio3")
    assert "has another API_KEY; loading a model instead" in done.err
    run.set(API_KEY=API_KEY)
    done = run.done("speak", "audio3", "--voice", "mine.wav")
    assert "has no such voice; loading a model instead" in done.err
    assert "loaded for this" in done.err


def test_service_of_a_url_must_speak(run: Terminal, url: str) -> None:
    assert "needs a key: set API_KEY" in run.mistake("speak", "a", "--server", url)
    run.set(API_KEY="wrong")
    assert "refuses the key: set API_KEY" in run.mistake("speak", "a", "--server", url)
    run.set(API_KEY=API_KEY)
    line = run.mistake("speak", "audio3", "--server", f"{url}/v1/", "--voice", "ana")
    assert "Is 'anna.wav' meant?" in line
    line = run.mistake("speak", "audio3", "--server", url, "--model", "turbo")
    assert "models download turbo" in line
    done = run.done("speak", "Это русский текст.", "--server", url, "-o", "out.mp3")
    assert "the text is in Cyrillic letters" in done.err


SAID = {
    "the preview voice ignores voice_id": "the preview voice ignores --voice",
    "'top_k' must be at most 6563": "--top-k must be at most 6563",
    "nano ignores cfg_guidance_weight, min_p": "nano ignores --cfg-guidance-weight, --min-p",
    "the text looks like German (de): set language to de": "the text looks like German (de): "
    "add --language de",
    "There are 20: a, …; GET /voices lists them all.": "There are 20: a, …; chatterbox-tts voices "
    "lists them all.",
    "no voice top_k.wav, whose seed and text": "no voice top_k.wav, whose seed and text",
}


@pytest.mark.parametrize("said", SAID)
def test_names_of_the_api_are_shown_as_options(said: str) -> None:
    assert in_options(said) == SAID[said]


def test_key_that_the_service_has_made_is_known(run: Terminal, url: str) -> None:
    port = int(url.rpartition(":")[2])
    run.set(PORT=str(port), API_KEY="", XDG_STATE_HOME=str(run.folder / "state"))
    assert "needs API_KEY, which is not set here" in run.done("speak", "audio3").err
    with kept_key(port, API_KEY):
        assert f"model of the server at http://127.0.0.1:{port}" in run.done("speak", "a").err
        assert run.done("voices", "list", "--server", url).out == b"anna.wav\n"
        run.set(API_KEY="wrong")
        assert "refuses the key" in run.mistake("voices", "list", "--server", url)


def test_key_passes_no_proxy_on_the_way_to_this_machine(run: Terminal, url: str) -> None:
    run.set(http_proxy="http://127.0.0.1:1", API_KEY=API_KEY)
    assert run.done("voices", "list", "--server", url).out == b"anna.wav\n"


def test_probe_of_a_port_sends_no_key() -> None:
    asked: list[bytes] = []

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            asked.append(connection.recv(65_536))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=answer, args=(listener,))
        thread.start()
        with Server(f"http://127.0.0.1:{listener.getsockname()[1]}", "secret") as server:
            assert server.health() is None
        thread.join()
    assert asked[0].startswith(b"GET /health")
    assert b"secret" not in asked[0]


# --- voices ---------------------------------------------------------------------------------------


def test_voices_are_added_listed_renamed_and_removed(run: Terminal) -> None:
    recording = run.folder / "rec.wav"
    recording.write_bytes(audio_file(tone(1.1)))
    assert run.done("voices", "add", "rec.wav").out == b"added rec.wav\n"
    assert "--replace replaces it" in run.mistake("voices", "add", "rec.wav")
    assert run.done("voices", "rename", "rec", "Jané").out.decode() == "renamed to Jané.wav\n"
    long_name = f"{'a very long name of a voice ' * 4}.wav"
    (run.folder / "voices" / long_name).touch()
    listed = [line.split("\t")[0] for line in run.done("voices").out.decode().splitlines()]
    assert listed == ["Jané.wav", long_name]
    [first, _] = json.loads(run.done("voices", "list", "--json").out)
    assert first == {
        "voice_id": "Jané.wav", "preloaded": False, "folder": "voices",
        "bytes": recording.stat().st_size,
    }  # fmt: skip
    run.done("voices", "rm", "Jané", long_name)
    assert run.done("voices").out == b""


def test_voices_of_a_service(run: Terminal, url: str) -> None:
    run.set(API_KEY=API_KEY)
    (run.folder / "rec.wav").write_bytes(audio_file(tone(1.3)))
    run.done("voices", "add", "rec.wav", "--name", "b c", "--server", url)
    run.done("voices", "rename", "b c", "d e", "--server", url)
    shown = run.done("voices", "list", "--server", url).out.decode()
    assert shown == "anna.wav\nd e.wav\n"
    assert run.done("voices", "rm", "d e", "--server", url).out == b"removed d e.wav\n"
    assert "no voice 'd e'" in run.mistake("voices", "rm", "d e", "--server", url)


# --- completion -----------------------------------------------------------------------------------


def completed(script: bytes, *words: str) -> set[str]:
    """What bash offers for the last of the words."""
    quoted = " ".join(f"'{word}'" for word in words)
    program = (
        f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _chatterbox_tts; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", f"{script.decode()}\n{program}"], capture_output=True, check=True
    )
    assert done.stderr == b""
    return set(done.stdout.decode().split())


def test_bash_completes_commands_options_and_their_values(run: Terminal) -> None:
    script = run.done("completion", "bash").out
    program = "chatterbox-tts"
    assert {"serve", "speak", "voices"} <= completed(script, program, "")
    assert completed(script, program, "voices", "r") == {"rename", "rm"}
    assert completed(script, program, "speak", "--exa") == {"--exaggeration"}
    assert completed(script, program, "voices", "add", "--re") == {"--replace"}
    assert completed(script, program, "speak", "--format", "m") == {"mp3", "mp4", "m4a"}
    assert completed(script, program, "completion", "") == {"bash", "zsh", "fish"}
    for shell in ("zsh", "fish"):
        assert b"exaggeration" in run.done("completion", shell).out
